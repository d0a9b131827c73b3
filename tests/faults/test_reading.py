"""The fault matrix of `extract` and `verify`: correct files, or a clean error without wrong files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.cases import FILES, Case
from tests.faults.conftest import selected
from tests.faults.read_cases import Verb, read_cases
from tests.faults.reading import Carried, Ended, attempt
from tests.support.registry import Registry

# All cases run once, in one process.
pytestmark = [pytest.mark.xdist_group("faults-reading"), pytest.mark.timeout(900)]
CASES = list(read_cases())
VERBS = {"dir": "extract to a folder", "hf-cache": "extract to a cache", "verify": "verify"}
# CI has two cores, and a run waits now and then.
AT_ONCE = 3


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, registry: Registry, tmp_path_factory) -> dict[str, Future[Ended]]:
    """All runs, ended: pytest changes the environment between tests, and each run reads it."""
    carried = Carried(registry, tmp_path_factory.mktemp("faults"))
    names = selected(request)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {case.name: pool.submit(attempt, carried, verb, case) for verb, case in CASES if case.name in names}


@pytest.mark.parametrize(("verb", "case"), [pytest.param(verb, case, id=case.name) for verb, case in CASES])
def test_reading(runs: dict[str, Future[Ended]], verb: Verb, case: Case, tell: Callable[[str, Case], None]):
    ended = runs[case.name].result()
    assert ended.fired, "the fault did not occur"
    assert ended.first.code == case.code, ended.first.stderr
    assert "Traceback" not in ended.first.stderr
    for word in case.words:
        assert word in ended.first.stderr
    # Files with their final name are complete.
    assert ended.left.items() <= FILES.items()
    if ended.second is not None:
        assert ended.second.code == 0, ended.second.stderr
    if verb != "verify":
        assert ended.files == FILES
    tell(VERBS[verb], case)
