"""The fault matrix of one file that is read over several connections, which each connection is too slow for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks.shaper import Link, shaped

from llmstack.net import Client
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from tests.faults.bench import IMPATIENT, QUICK
from tests.faults.cases import Case
from tests.faults.conftest import selected
from tests.support.carried import carry
from tests.support.cli import Run, run_llmstack
from tests.support.hub import Hub
from tests.support.proxy import Proxy, Rule
from tests.support.registry import Registry

# All cases run once, in one process.
pytestmark = [pytest.mark.xdist_group("faults-parallel"), pytest.mark.timeout(600)]
SIZE = 40_000_000
DATA = random.Random(9).randbytes(SIZE)
RATE = 8_000_000
# The first requests: one for the complete file, one ahead of it.
LATER = 2
AT_ONCE = 3
VERBS = {"extract": "extract to a directory", "ferry": "ferry to a layout"}
BLOB = ("GET", "/blobs/{weights}")
AFTER_A_SECOND = {"Retry-After": "1"}


def _extract(name: str, rule: Rule, **more: Any) -> Case:
    return Case(f"extract-{name}", "several connections", registry=(rule,), **more)


def _ferry(name: str, *, slow: bool = False, code: int = 0, **what: Any) -> Case:
    return Case(f"ferry-{name}", "several connections", cdn=({"skip": LATER, **what},), slow=slow, code=code)


CASES = [
    _extract("cut", Rule(*BLOB, skip=LATER, times=3, cut_answer=300_000, reset=True)),
    _extract("stall", Rule(*BLOB, skip=LATER, stall_answer=300_000), slow=True),
    _extract("short", Rule(*BLOB, skip=LATER, truncate_answer=300_000)),
    _extract("429", Rule(*BLOB, skip=LATER, status=429, headers=AFTER_A_SECOND)),
    _extract("503-ever", Rule(*BLOB, skip=LATER, times=None, status=503), code=6),
    _extract("flipped", Rule(*BLOB, skip=LATER, corrupt_answer=300_000), code=5),
    _ferry("cut", times=3, drop_after=300_000),
    _ferry("stall", stall_after=300_000, slow=True),
    _ferry("429", status=429, retry_after=1),
    _ferry("503-ever", status=503, times=None, code=6),
    _ferry("no-ranges", ignore_range=True, times=None),
    _ferry("expired", drop_after=300_000, expire=True),
    _ferry("flipped", corrupt_at=SIZE // 2, times=None, skip=0, code=5),
]


@dataclass
class Ended:
    """The result of a run with a fault, of the next one without it, and the file after both."""

    fired: bool
    first: Run
    second: Run | None
    data: bytes


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, registry: Registry, tmp_path_factory) -> dict[str, Future[Ended]]:
    folder, names, space = tmp_path_factory.mktemp("faults"), selected(request), registry.namespace()
    with closing(Client()) as client:
        store = Registries(client, lambda _: None).repository(Reference.parse(f"{space}/models"), write=True)
        weights = carry(store, "org--model", {"weights.bin": DATA}).files[0].layers[0]

    def run(case: Case) -> Ended:
        if case.registry:
            return extract(case, registry, space, weights, folder / case.name)
        return ferry(case, folder / case.name)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {case.name: pool.submit(run, case) for case in CASES if case.name in names}


def extract(case: Case, registry: Registry, space: str, weights: str, out: Path) -> Ended:
    [rule] = case.registry
    rule.target = rule.target.format(weights=weights)

    def command(host: str) -> list[str]:
        return ["extract", "org/model", str(out), "--from", f"{host}/{space.partition('/')[2]}"]

    with Proxy(registry.url) as proxy, shaped(proxy.host, Link(connection=RATE)) as slow:
        proxy.rules = [rule]
        first = run_llmstack(*command(slow), env=IMPATIENT if case.slow else QUICK)
    second = run_llmstack(*command(registry.host), env=QUICK) if first.code else None
    return Ended(rule.fired > 0, first, second, (out / "weights.bin").read_bytes())


def ferry(case: Case, folder: Path) -> Ended:
    command = ["ferry", "org/model", "--to", f"oci:{folder}", "--base", "scratch"]
    with slow_hub() as hub:
        faults = [hub.fault("*/weights.bin", host="cdn", **{"bytes_per_second": RATE, **what}) for what in case.cdn]
        hub.fault("*/weights.bin", host="cdn", bytes_per_second=RATE, times=None)
        first = run_llmstack(*command, env={"HF_ENDPOINT": hub.url, **(IMPATIENT if case.slow else QUICK)})
        fired = all(fault.taken for fault in faults)
        hub.faults.clear()
        second = run_llmstack(*command, env={"HF_ENDPOINT": hub.url, **QUICK}) if first.code else None
    out = folder / "out"
    done = run_llmstack("extract", "org/model", str(out), "--from", f"oci:{folder}")
    assert done.code == 0, done.stderr
    return Ended(fired, first, second, (out / "weights.bin").read_bytes())


@contextmanager
def slow_hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repo("org/model", {"weights.bin": DATA})
        yield hub


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parallel(runs: dict[str, Future[Ended]], case: Case, tell: Callable[[str, Case], None]):
    ended = runs[case.name].result()
    assert ended.fired, "the fault did not occur"
    assert ended.first.code == case.code, ended.first.stderr
    assert "Traceback" not in ended.first.stderr
    if ended.second is not None:
        assert ended.second.code == 0, ended.second.stderr
    assert ended.data == DATA
    tell(VERBS[case.name.partition("-")[0]], case)
