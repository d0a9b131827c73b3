"""`llmstack ferry` between a hub and a registry, with a proxy in front of each; many repos per process.

Every repo has its own fault. The faults of the registry are set when ferry requests the repo from the hub, because it
ferries one repo after the other.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.cases import FILES, Case
from tests.faults.stored import Stored, layout_files, layout_tags
from tests.support.cli import Run, run_llmstack
from tests.support.hub import Hub
from tests.support.proxy import Proxy, Seen
from tests.support.registry import Registry

QUICK = {"LLMSTACK_RETRY_WAIT": "0.01", "LLMSTACK_TIMEOUT": "30"}
# A short timeout for stalls, but long enough for a busy machine.
IMPATIENT = {**QUICK, "LLMSTACK_TIMEOUT": "1.5"}
ASKED = re.compile(r"/api/models/org/([^/?]+)/revision/")


@dataclass
class Outcome:
    """The result of one case: of the first run, its leftovers in the registry, and the files after a second run."""

    case: Case
    result: dict[str, Any]
    stderr: str
    tags: set[str]
    left: set[str]
    fired: bool
    again: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


class Bench:
    """Ferries the repos of cases, first with their faults, then without."""

    def __init__(self, hub: Hub, registry: Registry, folder: Path) -> None:
        self.folder = folder
        self.hub = hub
        self._registry = registry
        self._space = registry.namespace().partition("/")[2]
        self.stored = Stored(registry, f"{self._space}/models")
        self.hub_proxy = Proxy(hub.url, self._asked)
        self.proxy = Proxy(registry.url)
        self._cases: dict[str, Case] = {}
        self._current: str | None = None
        self._left: dict[str, set[str]] = {}

    @property
    def target(self) -> str:
        return f"{self.proxy.host}/{self._space}"

    def ferry(self, *arguments: str, env: dict[str, str], to: str | None = None) -> Run:
        """Run `llmstack ferry` between the two proxies."""
        more = {"HF_ENDPOINT": self.hub_proxy.url, **env}
        base = [] if "--base" in arguments else ["--base", "scratch"]
        command = ["ferry", *arguments, "--to", to or self.target, *base]
        return run_llmstack(*command, cwd=self.folder, env=more)

    def run(self, cases: Sequence[Case], *, layout: Path | None = None) -> dict[str, Outcome]:
        """Ferry the repos of all cases in one process, then again without faults; return the outcomes by name."""
        self._cases = {case.name: case for case in cases}
        faults = {case.name: [] for case in cases}
        for case in cases:
            self.hub.add_repo(f"org/{case.name}", {**FILES, "name.txt": case.name.encode()})
            for what in case.cdn:
                faults[case.name].append(self.hub.fault(f"*/{case.name}/*/weights.bin", host="cdn", **what))
        self.hub_proxy.rules = [rule for case in cases for rule in case.hub]
        env = IMPATIENT if any(case.slow for case in cases) else QUICK
        ids = [f"org/{case.name}" for case in cases]
        to = None if layout is None else f"oci:{layout}"
        first = self.ferry("--json", *ids, env=env, to=to)
        self._settle()
        tags = self._tags(layout)
        fired = {case.name: self._fired(case, faults[case.name]) for case in cases}
        self._cases = {}
        self.hub_proxy.rules, self.proxy.rules = (), ()
        self.hub.faults.clear()
        again = self.ferry("--json", *ids, env=QUICK, to=to)
        assert again.code == 0, again.stderr
        results = {result["repo_id"]: result for result in first.json["results"]}
        second = {result["repo_id"]: result["status"] for result in again.json["results"]}
        return {
            case.name: Outcome(
                case,
                results[f"org/{case.name}"],
                "\n".join(line for line in first.stderr.splitlines() if f"org/{case.name}:" in line),
                tags,
                self._left.get(case.name, set()),
                fired[case.name],
                second[f"org/{case.name}"],
                self._files(layout, f"org--{case.name}"),
            )
            for case in cases
        }

    def _fired(self, case: Case, faults: list[Any]) -> bool:
        return all(rule.fired for rule in (*case.hub, *case.registry)) and all(fault.taken for fault in faults)

    def _tags(self, layout: Path | None) -> set[str]:
        return self.stored.tags() if layout is None else set(layout_tags(layout / "models"))

    def _files(self, layout: Path | None, tag: str) -> dict[str, bytes]:
        return self.stored.files(tag) if layout is None else layout_files(layout / "models", tag)

    def _asked(self, seen: Seen) -> None:
        """Set the faults of the registry when ferry starts the next repo."""
        match = ASKED.match(seen.target)
        if self._cases and match and match[1] != self._current:
            self._settle()
            self._current = match[1]
            case = self._cases.get(match[1])
            self.proxy.rules = case.registry if case else ()
            if case and case.refuse:
                self.proxy.refuse()
            else:
                self.proxy.accept()

    def _settle(self) -> None:
        """Record the unfinished uploads of the previous repo."""
        known = {name for left in self._left.values() for name in left}
        if self._current in self._cases:
            self._left[self._current] = self.stored.uploads() - known
        self._current = None
        self.proxy.accept()


@contextlib.contextmanager
def bench(registry: Registry, folder: Path, hub: Hub | None = None) -> Iterator[Bench]:
    """Start the two proxies, and a hub if none is given."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        made = Bench(hub or stack.enter_context(Hub()), registry, folder)
        stack.enter_context(made.hub_proxy)
        stack.enter_context(made.proxy)
        yield made


def start(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """Start llmstack with stderr in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmstack", *command],
        cwd=cwd,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
