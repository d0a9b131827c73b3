"""The summary of the fault matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.faults.cases import SEED, Case

COUNTS = pytest.StashKey[Counter[tuple[str, str, bool]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str, Case], None]:
    """Return a function that counts a case with the expected result."""

    def count(verb: str, case: Case) -> None:
        pytestconfig.stash[COUNTS][verb, case.group, case.code == 0] += 1

    return count


def selected(request: pytest.FixtureRequest) -> set[str]:
    """Return the names of the selected cases of this module."""
    items = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params.get("case") for item in items if hasattr(item, "callspec")]
    return {case.name for case in cases if case is not None}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[COUNTS]
    if not counts:
        return
    write = terminalreporter.write_line
    write(f"\nFault matrix, seed {SEED}:\n")
    write("| command | what fails | faults tried | survived | refused cleanly; the next run succeeds |")
    write("|---|---|---:|---:|---:|")
    for verb, group in sorted({(verb, group) for verb, group, _ in counts}):
        survived, refused = counts[verb, group, True], counts[verb, group, False]
        write(f"| {verb} | {group} | {survived + refused} | {survived} | {refused} |")
    survived = sum(count for (_, _, well), count in counts.items() if well)
    write(f"| all | | {counts.total()} | {survived} | {counts.total() - survived} |")
