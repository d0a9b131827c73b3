"""Kill, interrupt or terminate during a chosen request: no partial result is published, and a rerun completes.

The request triggers the signal. If it comes in the middle of a body, the connection stalls there.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.bench import QUICK, Bench, bench, start
from tests.faults.cases import FILES, WEIGHTS, Case, place
from tests.faults.conftest import selected
from tests.faults.ferry_cases import HUB, REGISTRY
from tests.faults.read_cases import MOMENTS, with_digests
from tests.faults.reading import Carried, placed
from tests.faults.stored import layout_files, layout_tags
from tests.support.proxy import Proxy, Rule
from tests.support.registry import Registry

# All cases run once, in one process.
pytestmark = [pytest.mark.xdist_group("faults-signals"), pytest.mark.timeout(900)]
SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
CODES = {"kill": -signal.SIGKILL, "int": 130, "term": 143}
# SOON is more than a run needs to end, and less than its timeout for data.
PATIENT = {**QUICK, "LLMSTACK_TIMEOUT": "600"}
SOON = 120
FERRY = ("info", "tree", "small", "large", "open", "stream", "commit", "open-index", "look", "manifest", "tag")


def ferry_cases() -> list[Case]:
    cases = []
    for moment in FERRY:
        for word, code in CODES.items():
            name = f"{word}-{moment}"
            if moment in HUB:
                rule = Rule("GET", HUB[moment][0].format(name=name))
                cases.append(Case(name, "signals", hub=(rule,), code=code, leaves=word == "kill"))
                continue
            method, target, skip, _ = REGISTRY[moment]
            middle = place(name) if moment == "stream" else None
            # An upload cannot be cancelled if its connection stalls, or if the response with its URL was not read.
            leaves = word == "kill" or moment in {"stream", "open-index"}
            rule = Rule(method, target, skip, stall_request=middle)
            cases.append(Case(name, "signals", registry=(rule,), code=code, leaves=leaves, named=moment == "tag"))
    return cases


def layout_cases() -> list[Case]:
    """Signals when ferry has created a file in the layout."""
    made = {"part": "blobs/sha256/.part-*", "blob": "blobs/sha256/[0-9a-f]*", "index": "index.json"}
    return [
        Case(f"{word}-{moment}", "signals", words=(pattern,), code=code, late=moment != "part")
        for moment, pattern in made.items()
        for word, code in CODES.items()
    ]


def read_cases() -> list[Case]:
    cases = []
    for verb in ("dir", "hf-cache"):
        for moment in ("tag", "index", "weights", "bundle"):
            target, size = MOMENTS[moment]
            for word, code in CODES.items():
                name = f"{verb}-{word}-{moment}"
                rule = Rule("GET", target, stall_answer=place(name, size))
                cases.append(Case(name, "signals", registry=(rule,), code=code))
    return cases


@dataclass
class Stopped:
    code: int
    stderr: str
    tags: set[str]
    left: set[str]
    files: dict[str, bytes]


class Trigger:
    """Sends a signal to a process that is started later."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._started = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> None:
        assert self._started.wait(SOON)
        self._process.send_signal(self._number)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for the end of the process; return its exit code and stderr."""
        self._process = process
        self._started.set()
        with process:
            _, err = process.communicate(timeout=SOON)
        return process.returncode, err


def armed(case: Case) -> Trigger:
    """Return the trigger of the signal in the case's name, called by the case's request."""
    word = next(word for word in case.name.split("-") if word in SIGNALS)
    trigger = Trigger(SIGNALS[word])
    for rule in (*case.hub, *case.registry):
        rule.then = trigger
    return trigger


def stop_ferry(made: Bench, registry: Registry, case: Case) -> Stopped:
    """Ferry a repo into its own namespace until the signal."""
    trigger = armed(case)
    made.hub.add_repo(f"org/{case.name}", FILES)
    with bench(registry, made.folder / case.name, made.hub) as own:
        own.hub_proxy.rules, own.proxy.rules = case.hub, case.registry
        env = {**PATIENT, "HF_ENDPOINT": own.hub_proxy.url}
        command = ["ferry", f"org/{case.name}", "--to", own.target, "--base", "scratch"]
        code, err = trigger.end(start(command, env, own.folder))
        tags, left = own.stored.tags(), own.stored.uploads()
        again = own.ferry(f"org/{case.name}", env=QUICK)
        assert again.code == 0, again.stderr
        assert {tag for tag in own.stored.tags() if tag.endswith("--partial")} == set()
        return Stopped(code, err, tags, left, own.stored.files(f"org--{case.name}"))


def stop_layout(made: Bench, case: Case) -> Stopped:
    """Ferry a repo into a layout until the signal."""
    made.hub.add_repo(f"org/{case.name}", FILES)
    if not case.late:
        # The layer cannot be complete before the signal.
        made.hub.fault(f"*/{case.name}/*/weights.bin", host="cdn", stall_after=WEIGHTS // 2)
    layout, tag = made.folder / f"{case.name}-carried/models", f"org--{case.name}"
    env = {**PATIENT, "HF_ENDPOINT": made.hub.url}
    command = ["ferry", f"org/{case.name}", "--to", f"oci:{layout.parent}", "--base", "scratch"]
    process = start(command, env, made.folder)
    while process.poll() is None and not any(layout.glob(case.words[0])):
        pass
    process.send_signal(SIGNALS[case.name.partition("-")[0]])
    with process:
        _, err = process.communicate(timeout=SOON)
    tags = layout_tags(layout)
    assert tag not in tags or layout_files(layout, tag) == FILES
    again = made.ferry(f"org/{case.name}", env=QUICK, to=f"oci:{layout.parent}")
    assert again.code == 0, again.stderr
    assert not list(layout.glob("blobs/sha256/.part-*"))
    return Stopped(process.returncode, err, set(tags), set(), layout_files(layout, tag))


def stop_extract(carried: Carried, case: Case) -> Stopped:
    """Extract an image until the signal."""
    verb = "hf-cache" if case.name.startswith("hf-cache") else "dir"
    trigger, out = armed(case), carried.place()
    with Proxy(carried.registry.url) as proxy:
        proxy.rules = with_digests(case, carried.digests).registry
        process = start(carried.command(verb, out, proxy.host), PATIENT, out.parent)
        code, err = trigger.end(process)
    assert placed(out, verb).items() <= FILES.items()
    again = carried.read(verb, out, carried.registry.host, QUICK)
    assert again.code == 0, again.stderr
    return Stopped(code, err, set(), set(), placed(out, verb))


INTO_A_REGISTRY, ONTO_A_DISK, READING = ferry_cases(), layout_cases(), read_cases()
Runs = dict[str, Future[Stopped]]


@pytest.fixture(scope="module")
def runs(request, registry: Registry, tmp_path_factory) -> Runs:
    """All runs, ended: pytest changes the environment between tests, and each run reads it."""
    names = selected(request)
    folder = tmp_path_factory.mktemp("signals")
    carried = Carried(registry, folder)
    with bench(registry, folder / "bench") as made, ThreadPoolExecutor(3) as pool:
        jobs: dict[str, Callable[[], Stopped]] = {}
        jobs |= {case.name: lambda case=case: stop_ferry(made, registry, case) for case in INTO_A_REGISTRY}
        jobs |= {case.name: lambda case=case: stop_layout(made, case) for case in ONTO_A_DISK}
        jobs |= {case.name: lambda case=case: stop_extract(carried, case) for case in READING}
        return {name: pool.submit(job) for name, job in jobs.items() if name in names}


@pytest.mark.parametrize("case", INTO_A_REGISTRY, ids=str)
def test_ferry_into_a_registry(runs: Runs, case: Case, tell: Callable[[str, Case], None]):
    stopped = runs[case.name].result()
    check(stopped, case)
    assert (f"org--{case.name}" in stopped.tags) == case.named
    assert not stopped.left or case.leaves
    tell("ferry to a registry", case)


@pytest.mark.parametrize("case", ONTO_A_DISK, ids=str)
def test_ferry_onto_a_disk(runs: Runs, case: Case, tell: Callable[[str, Case], None]):
    stopped = runs[case.name].result()
    check(stopped, case)
    tell("ferry to a layout", case)


@pytest.mark.parametrize("case", READING, ids=str)
def test_extract(runs: Runs, case: Case, tell: Callable[[str, Case], None]):
    check(runs[case.name].result(), case)
    tell("extract to a cache" if case.name.startswith("hf-cache") else "extract to a folder", case)


def check(stopped: Stopped, case: Case) -> None:
    # A process may have finished its work before the signal.
    assert stopped.code == case.code or (case.late and stopped.code in {0, -SIGNALS[case.name.partition("-")[0]]})
    assert "Traceback" not in stopped.stderr
    if stopped.code in {130, 143}:
        assert "rerun to resume" in stopped.stderr
    assert stopped.files == FILES


def test_a_second_signal_ends_at_once(registry: Registry, tmp_path: Path):
    """The first signal alone waits several seconds for the registry that does not respond."""
    with bench(registry, tmp_path / "bench") as made:
        made.hub.add_repo("org/tiny", FILES)
        reached = threading.Event()
        made.proxy.rules = [Rule("PATCH", "/blobs/uploads/", silent=True, then=reached.set)]
        env = {**PATIENT, "HF_ENDPOINT": made.hub.url}
        process = start(["ferry", "org/tiny", "--to", made.target, "--base", "scratch"], env, made.folder)
        assert reached.wait(SOON)
        # Signals may be merged, so they are sent until the process has ended.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            reached.wait(0)
        with process:
            _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted" not in err
    assert made.stored.tags() == set()
