"""Killed, interrupted or terminated while a chosen request is under way: nothing half done has a name, a rerun heals.

The request itself triggers the signal, and where it comes in the middle of a body, the other side says nothing more.
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
from tests.faults.cases import FILES, Case, place
from tests.faults.conftest import selected
from tests.faults.ferry_cases import HUB, REGISTRY
from tests.faults.read_cases import MOMENTS, with_digests
from tests.faults.reading import Carried, placed
from tests.faults.stored import layout_files, layout_tags
from tests.support.proxy import Proxy, Rule
from tests.support.registry import Registry

# What all cases share runs once, in one process, and may take its time.
pytestmark = [pytest.mark.xdist_group("faults-signals"), pytest.mark.timeout(900)]
SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
CODES = {"kill": -signal.SIGKILL, "int": 130, "term": 143}
# Far more than it may take to end, far less than the timeout of whoever waits for bytes.
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
            # Neither what has gone silent in the middle of an upload can be told of its end, nor what has opened one
            # and could not say so any more.
            leaves = word == "kill" or moment in {"stream", "open-index"}
            rule = Rule(method, target, skip, stall_request=middle)
            cases.append(Case(name, "signals", registry=(rule,), code=code, leaves=leaves, named=moment == "tag"))
    return cases


def layout_cases() -> list[Case]:
    """Signals at the moment at which ferry has made something in the layout."""
    made = {"part": "blobs/sha256/.part-*", "blob": "blobs/sha256/[0-9a-f]*", "index": "index.json"}
    return [
        Case(f"{word}-{moment}", "signals", words=(pattern,), code=code)
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
    """Sends a signal to a process that is started after the rule which calls this was made."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._started = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> None:
        assert self._started.wait(SOON)
        self._process.send_signal(self._number)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for the process to end by itself; return its exit code and what it said."""
        self._process = process
        self._started.set()
        with process:
            _, err = process.communicate(timeout=SOON)
        return process.returncode, err


def armed(case: Case) -> Trigger:
    """Let the case's request send the signal that its name says."""
    word = next(word for word in case.name.split("-") if word in SIGNALS)
    trigger = Trigger(SIGNALS[word])
    for rule in (*case.hub, *case.registry):
        rule.then = trigger
    return trigger


def stop_ferry(made: Bench, registry: Registry, case: Case) -> Stopped:
    """Carry a repo into a namespace of its own until the signal comes."""
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
    """Carry a repo onto a disk until the signal comes."""
    made.hub.add_repo(f"org/{case.name}", FILES)
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
    whole = layout_files(layout, tag) if tag in tags else FILES
    assert whole == FILES
    again = made.ferry(f"org/{case.name}", env=QUICK, to=f"oci:{layout.parent}")
    assert again.code == 0, again.stderr
    assert not list(layout.glob("blobs/sha256/.part-*"))
    return Stopped(process.returncode, err, set(tags), set(), layout_files(layout, tag))


def stop_extract(carried: Carried, case: Case) -> Stopped:
    """Extract an image until the signal comes."""
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
    """All runs; they have ended: pytest changes the environment from test to test, and each run reads it."""
    wanted = selected(request)
    folder = tmp_path_factory.mktemp("signals")
    carried = Carried(registry, folder)
    with bench(registry, folder / "bench") as made, ThreadPoolExecutor(3) as pool:
        jobs: dict[str, Callable[[], Stopped]] = {}
        jobs |= {case.name: lambda case=case: stop_ferry(made, registry, case) for case in INTO_A_REGISTRY}
        jobs |= {case.name: lambda case=case: stop_layout(made, case) for case in ONTO_A_DISK}
        jobs |= {case.name: lambda case=case: stop_extract(carried, case) for case in READING}
        return {name: pool.submit(job) for name, job in jobs.items() if name in wanted}


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
    check(stopped, case, late=case.name.endswith("index"))
    tell("ferry to a layout", case)


@pytest.mark.parametrize("case", READING, ids=str)
def test_extract(runs: Runs, case: Case, tell: Callable[[str, Case], None]):
    check(runs[case.name].result(), case)
    tell("extract to a cache" if case.name.startswith("hf-cache") else "extract to a folder", case)


def check(stopped: Stopped, case: Case, *, late: bool = False) -> None:
    # A process whose work was done when the signal came may end as it would have.
    assert stopped.code == case.code or (late and stopped.code in {0, -SIGNALS[case.name.partition("-")[0]]})
    assert "Traceback" not in stopped.stderr
    if stopped.code in {130, 143}:
        assert "run the command again" in stopped.stderr
    assert stopped.files == FILES


def test_a_second_signal_ends_at_once(registry: Registry, tmp_path: Path):
    """The registry has the layer and says nothing: it would be waited for, though not for long."""
    with bench(registry, tmp_path / "bench") as made:
        made.hub.add_repo("org/tiny", FILES)
        reached = threading.Event()
        made.proxy.rules = [Rule("PATCH", "/blobs/uploads/", silent=True, then=reached.set)]
        env = {**PATIENT, "HF_ENDPOINT": made.hub.url}
        process = start(["ferry", "org/tiny", "--to", made.target, "--base", "scratch"], env, made.folder)
        assert reached.wait(SOON)
        # Two signals at one moment may become one, so it gets more of them until it is gone.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            reached.wait(0)
        with process:
            _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted" not in err
    assert made.stored.tags() == set()
