"""The delay before a retry: exponential, bounded, as the server asks, ended by a cancel."""

from __future__ import annotations

import threading
import time

import pytest

from llmstack.errors import UnavailableError
from llmstack.net import Cancelled
from llmstack.net.retry import TRIES, Backoff

DOWN = UnavailableError("the server is down")


def delays_of(retry_after: float | None = None) -> tuple[list[float], list[str]]:
    """Return the delays and the messages of a Backoff until it has no tries left."""
    delays: list[float] = []
    notes: list[str] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            delays.append(timeout or 0)
            return self.is_set()

    backoff = Backoff(Clock(), notes.append)
    for _ in range(TRIES - 1):
        backoff.wait(DOWN, retry_after)
    with pytest.raises(UnavailableError) as raised:
        backoff.wait(DOWN, retry_after)
    assert raised.value is DOWN
    return delays, notes


def test_delays_grow_until_no_tries_are_left():
    delays, notes = delays_of()
    assert len(delays) == TRIES - 1
    assert delays == sorted(delays)
    assert 0.3 < delays[0] < 0.7
    assert sum(delays) < 15
    assert all("the server is down; retrying in" in line for line in notes)


def test_a_server_may_ask_for_a_longer_delay_up_to_a_limit():
    delays, notes = delays_of(60.0)
    assert delays == [60.0] * (TRIES - 1)
    assert notes[0] == f"the server is down; retrying in 60 s (1 of {TRIES - 1})"
    assert max(delays_of(float("inf"))[0]) == 900.0


def test_progress_resets_the_count_of_tries():
    backoff = Backoff(threading.Event(), lambda _: None, tries=2, first_delay=0.01)
    for _ in range(3):
        backoff.wait(DOWN)
        backoff.reset()
    backoff.wait(DOWN)
    with pytest.raises(UnavailableError):
        backoff.wait(DOWN)


def test_a_cancel_ends_a_delay():
    cancel = threading.Event()
    backoff = Backoff(cancel, lambda _: None)
    threading.Timer(0.1, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        backoff.wait(DOWN, 600.0)
    assert time.monotonic() - began < 30
