"""How many connections are used: more while they are faster, and one after a refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from llmstack.net import parallel_limit
from llmstack.net.parallel_limit import MAX_CONNECTIONS, READ_AHEAD, ParallelLimit

TICK = 0.05


class Clock:
    """Replaces the time of the module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(parallel_limit, "time", clock)
    return clock


def transfer(
    limit: ParallelLimit, clock: Clock, rate: Callable[[int], float], seconds: float, waiting: float = 1.0
) -> list[int]:
    """Read for some seconds with `rate(connections)` bytes per second; return the numbers of connections in order."""
    seen = [limit.share(0.0)]
    for _ in range(int(seconds / TICK)):
        clock.now += TICK
        limit.received(int(rate(seen[-1]) * TICK))
        share = limit.share(TICK * waiting)
        if share != seen[-1]:
            seen.append(share)
    return seen


def test_connections_double_while_they_are_faster(clock: Clock):
    limit = ParallelLimit()
    with limit.reader():
        assert transfer(limit, clock, lambda count: 25e6 * count, 10) == [1, 2, 4, 8, MAX_CONNECTIONS]


def test_connections_go_back_if_they_gain_nothing(clock: Clock):
    limit = ParallelLimit()
    with limit.reader():
        assert transfer(limit, clock, lambda count: 25e6 * min(count, 4), 5) == [1, 2, 4, 8, 4]
        # Later, they are tried again: the link may have changed.
        assert transfer(limit, clock, lambda count: 25e6 * count, 20)[-1] == MAX_CONNECTIONS


def test_a_link_without_a_gain_gets_one_connection(clock: Clock):
    limit = ParallelLimit()
    with limit.reader():
        assert transfer(limit, clock, lambda _: 25e6, 4) == [1, 2, 1]
        # Less and less often.
        assert len(transfer(limit, clock, lambda _: 25e6, 600)) < 40


def test_a_reader_that_does_not_wait_gets_one_connection(clock: Clock):
    limit = ParallelLimit()
    with limit.reader():
        assert transfer(limit, clock, lambda count: 25e6 * count, 8, waiting=0.05) == [1]


def test_a_refusal_goes_back_to_one_connection_and_waits(clock: Clock):
    limit = ParallelLimit(8)
    with limit.reader():
        limit.refused(120.0)
        assert limit.delay == 120.0
        assert transfer(limit, clock, lambda count: 25e6 * count, 100) == [1]
        clock.now += 30
        assert limit.delay < 0
        assert transfer(limit, clock, lambda count: 25e6 * count, 10)[-1] > 1


def test_readers_share_the_connections():
    limit = ParallelLimit(8)
    with contextlib.ExitStack() as readers:
        for expected in (8, 4, 2, 2, 1, 1, 1, 1, 1):
            readers.enter_context(limit.reader())
            assert limit.share(0.0) == expected


@pytest.fixture(params=[1, 2, 5, 16])
def connections(request: pytest.FixtureRequest) -> Iterator[int]:
    return request.param


def test_all_connections_have_room(connections: int):
    """Some stretches wait for the reader while all connections read."""
    limit = ParallelLimit(connections)
    assert all(limit.reserve(limit.stretch()) for _ in range(connections + connections // 4))


def test_memory_is_limited():
    limit = ParallelLimit()
    assert limit.reserve(READ_AHEAD - 1)
    assert not limit.reserve(2)
    limit.release(READ_AHEAD - 1)
    assert limit.reserve(READ_AHEAD)
