"""Ferry and extract in a loop with random faults, and check every byte: `make soak`.

It ends after SOAK_MINUTES (3). FAULTS_SEED repeats the faults of another run; the requests that they hit still depend
on the scheduling of threads.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.bench import IMPATIENT, QUICK, Bench, bench
from tests.faults.stored import Stored
from tests.support.cli import Run, run_llmstack
from tests.support.proxy import Proxy, Rule
from tests.support.registry import Registry, plain_registry

REPOS = 6
STATUS = (401, 403, 404, 408, 413, 429, 500, 502, 503, 504)
HUB = (("GET", "/api/"), ("GET", "/resolve/"))
READS = (("GET", "/manifests/"), ("GET", "/blobs/"))
WRITES = (
    *READS,
    ("HEAD", "/blobs/"),
    ("POST", "/uploads/"),
    ("PATCH", "/uploads/"),
    ("PUT", "/uploads/"),
    ("PUT", "/manifests/"),
    ("DELETE", "/"),
)
# Any other exit code is a bug.
EXPECTED = frozenset({0, 1, 3, 4, 5, 6})


def main() -> int:
    minutes = float(os.environ.get("SOAK_MINUTES", "3"))
    seed = int(os.environ.get("FAULTS_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"soaking for {minutes:g} minutes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="llmstack-soak-") as name:
        # A separate home, so that the files of the user are not read or written.
        os.environ["HOME"] = name
        with plain_registry(Path(name) / "registry") as registry:
            return Soak(registry, Path(name), random.Random(seed)).run(time.monotonic() + 60 * minutes)


class Soak:
    """Rounds of: new commits, a ferry with faults, one without, a check of the registry, an extract with faults."""

    def __init__(self, registry: Registry, folder: Path, chance: random.Random) -> None:
        self._registry = registry
        self._folder = folder
        self._chance = chance
        self._count: Counter[str] = Counter()

    def run(self, end: float) -> int:
        """Return 0; raises AssertionError in a round with wrong bytes."""
        with bench(self._registry, self._folder / "bench") as made:
            while time.monotonic() < end:
                self._round(made)
                print(f"round {self._count['rounds']}: {self._summary()}", flush=True)
        print(f"done: {self._count['rounds']} rounds, {self._summary()}, no wrong byte")
        return 0

    def _summary(self) -> str:
        names = ("faults", "entries survived", "entries refused", "extracts survived", "extracts refused")
        return ", ".join(f"{self._count[name]} {name}" for name in names)

    def _round(self, made: Bench) -> None:
        self._count["rounds"] += 1
        expected = {f"org/soak{number}": self._change(made, f"org/soak{number}") for number in range(REPOS)}
        made.proxy.rules = [self._fault(WRITES) for _ in range(self._chance.randrange(1, 12))]
        made.hub_proxy.rules = [self._fault(HUB) for _ in range(self._chance.randrange(6))]
        rules = [*made.proxy.rules, *made.hub_proxy.rules]
        made.hub.fault("*.bin", host="cdn", times=self._chance.randrange(4), drop_after=self._chance.randrange(90_000))
        first = self._checked(made.ferry("--json", *expected, env=IMPATIENT))
        self._count["faults"] += sum(rule.fired for rule in rules)
        for result in first.json["results"]:
            self._count["entries refused" if result["status"] == "failed" else "entries survived"] += 1
            if result["status"] != "failed":
                assert made.stored.files(_tag(result["repo_id"])) == expected[result["repo_id"]]
        made.proxy.rules = made.hub_proxy.rules = ()
        made.hub.faults.clear()
        again = made.ferry(*expected, env=QUICK)
        assert again.code == 0, again.stderr
        for repo_id, files in expected.items():
            assert made.stored.files(_tag(repo_id)) == files
        repo_id = self._chance.choice(sorted(expected))
        self._extract(made.stored, made.target, repo_id, expected[repo_id])

    def _extract(self, stored: Stored, target: str, repo_id: str, files: dict[str, bytes]) -> None:
        """Extract into the directory of an earlier round, with faults and then without."""
        out = self._folder / "out" / repo_id
        space = target.partition("/")[2]
        with Proxy(self._registry.url) as proxy:
            proxy.rules = rules = [self._fault(READS) for _ in range(self._chance.randrange(1, 5))]
            command = ["extract", repo_id, str(out), "--from", f"{proxy.host}/{space}"]
            first = self._checked(run_llmstack(*command, env=IMPATIENT))
            self._count["faults"] += sum(rule.fired for rule in rules)
            self._count["extracts refused" if first.code else "extracts survived"] += 1
            proxy.rules = ()
            again = run_llmstack(*command, env=QUICK)
        assert again.code == 0, again.stderr
        assert {name: (out / name).read_bytes() for name in files} == files
        assert stored.tags()

    def _change(self, made: Bench, repo_id: str) -> dict[str, bytes]:
        """Add a commit to a repo with some probability; return its files."""
        repo = made.hub.repos.get(("model", repo_id))
        names = ["config.json", "weights.bin", "more.bin", "deep/er/vocab.txt"]
        new = {name: self._chance.randbytes(self._chance.randrange(120_000)) for name in names}
        if repo is None:
            repo = made.hub.add_repo(repo_id, new)
        elif self._chance.random() < 0.7:
            some = self._chance.sample(names, self._chance.randrange(1, 4))
            repo.commit({name: new[name] for name in some})
        return {path: bytes(file.read(0, file.size)) for path, file in repo.head().files.items()}

    def _fault(self, requests: Sequence[tuple[str, str]]) -> Rule:
        """Return a random fault of one of these requests."""
        method, target = self._chance.choice(requests)
        rule = Rule(method, target, skip=self._chance.randrange(8), times=self._chance.choice([1, 1, 1, 2, 4, 9]))
        kinds = ["status", "lose_answer"]
        # Responses of the Hub API have no hash (TLS protects them); files have one.
        kinds += ["cut_answer", "truncate_answer", "stall_answer"] if method == "GET" else []
        kinds += ["corrupt_answer"] if method == "GET" and target != "/api/" else []
        kinds += ["cut_request", "corrupt_request", "stall_request"] if method in {"PATCH", "PUT"} else []
        kind = self._chance.choice(kinds)
        if kind == "status":
            rule.status, rule.headers = self._chance.choice(STATUS), {"Retry-After": "0"}
        else:
            setattr(rule, kind, kind == "lose_answer" or int(10 ** self._chance.uniform(0, 5)))
        rule.reset = self._chance.random() < 0.5
        return rule

    @staticmethod
    def _checked(run: Run) -> Run:
        assert run.code in EXPECTED, run.stderr
        assert "Traceback" not in run.stderr, run.stderr
        return run


def _tag(repo_id: str) -> str:
    return repo_id.replace("/", "--")


if __name__ == "__main__":
    sys.exit(main())
