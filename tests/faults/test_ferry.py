"""The fault matrix of `llmstack ferry`: a complete image, or a clean error and a complete image from the next run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.bench import Outcome, bench
from tests.faults.cases import FILES, Case
from tests.faults.conftest import selected
from tests.faults.ferry_cases import hub_cases, registry_cases
from tests.support.registry import Registry

# All cases run once, in one process.
pytestmark = [pytest.mark.xdist_group("faults-ferry"), pytest.mark.timeout(900)]
INTO_A_REGISTRY = [*registry_cases(), *hub_cases()]
INTO_A_LAYOUT = list(hub_cases())
LOT = 40


@pytest.fixture(scope="module")
def carried(request, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_all(INTO_A_REGISTRY, selected(request), registry, tmp_path_factory.mktemp("faults"), layout=False)


@pytest.fixture(scope="module")
def written(request, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_all(INTO_A_LAYOUT, selected(request), registry, tmp_path_factory.mktemp("faults"), layout=True)


def run_all(
    cases: list[Case], names: set[str], registry: Registry, folder: Path, *, layout: bool
) -> dict[str, Outcome]:
    """Ferry the repos of all cases, many per process; those that wait for timeouts have their own process."""
    chosen = [case for case in cases if case.name in names]
    quick = [case for case in chosen if not case.slow]
    lots = [[case for case in chosen if case.slow], *(quick[n : n + LOT] for n in range(0, len(quick), LOT))]

    def run(number: int) -> dict[str, Outcome]:
        if not lots[number]:
            return {}
        with bench(registry, folder / f"work-{number}") as made:
            return made.run(lots[number], layout=folder / f"carried-{number}" if layout else None)

    with ThreadPoolExecutor(3) as pool:
        return {name: outcome for lot in pool.map(run, range(len(lots))) for name, outcome in lot.items()}


@pytest.mark.parametrize("case", INTO_A_REGISTRY, ids=str)
def test_into_a_registry(carried: dict[str, Outcome], case: Case, tell: Callable[[str, Case], None]):
    check(carried[case.name])
    tell("ferry to a registry", case)


@pytest.mark.parametrize("case", INTO_A_LAYOUT, ids=str)
def test_into_a_layout(written: dict[str, Outcome], case: Case, tell: Callable[[str, Case], None]):
    check(written[case.name])
    tell("ferry to a layout", case)


def check(outcome: Outcome) -> None:
    case, tag = outcome.case, f"org--{outcome.case.name}"
    assert outcome.fired, "the fault did not occur"
    assert "Traceback" not in outcome.stderr
    if case.code:
        assert outcome.result["status"] == "failed"
        for word in case.words:
            assert word in outcome.stderr
        assert (tag in outcome.tags) == case.named
    else:
        assert outcome.result["status"] == "carried", outcome.stderr
        assert tag in outcome.tags
    assert not outcome.left or case.leaves
    assert outcome.again == ("carried" if case.code and not case.named else "up-to-date")
    assert outcome.files == {**FILES, "name.txt": case.name.encode()}
