"""The fault matrix of `extract` and `verify`: read whole, or refused cleanly with nothing wrong left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.cases import FILES, Case
from tests.faults.conftest import selected
from tests.faults.read_cases import Verb, read_cases
from tests.faults.reading import Carried, Ended, attempt
from tests.support.registry import Registry

# What all cases share runs once, in one process, and may take its time.
pytestmark = [pytest.mark.xdist_group("faults-reading"), pytest.mark.timeout(900)]
CASES = list(read_cases())
VERBS = {"dir": "extract to a folder", "hf-cache": "extract to a cache", "verify": "verify"}
# The machine has two cores in CI; a run waits now and then.
AT_ONCE = 3


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, registry: Registry, tmp_path_factory) -> dict[str, Future[Ended]]:
    """All runs; they have ended: pytest changes the environment from test to test, and each run reads it."""
    carried = Carried(registry, tmp_path_factory.mktemp("faults"))
    wanted = selected(request)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {case.name: pool.submit(attempt, carried, verb, case) for verb, case in CASES if case.name in wanted}


@pytest.mark.parametrize(("verb", "case"), [pytest.param(verb, case, id=case.name) for verb, case in CASES])
def test_reading(runs: dict[str, Future[Ended]], verb: Verb, case: Case, tell: Callable[[str, Case], None]):
    ended = runs[case.name].result()
    assert ended.fired, "the fault never happened"
    assert ended.first.code == case.code, ended.first.stderr
    assert "Traceback" not in ended.first.stderr
    for word in case.words:
        assert word in ended.first.stderr
    # Whatever has got its place is whole.
    assert ended.left.items() <= FILES.items()
    if ended.second is not None:
        assert ended.second.code == 0, ended.second.stderr
    if verb != "verify":
        assert ended.files == FILES
    tell(VERBS[verb], case)
