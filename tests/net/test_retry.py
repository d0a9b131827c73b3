"""How long to wait before another try: growing, bounded, as the server asks, and never after a cancel."""

from __future__ import annotations

import email.utils
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import UnavailableError
from llmstack.net.retry import TRIES, Backoff, Cancelled, asked_wait, parse_retry_after

DOWN = UnavailableError("it is down")


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("7", 7.0), (" 120 ", 120.0), ("9" * 400, float("inf"))])
def test_retry_after_in_seconds(value: str, seconds: float):
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize("ahead", [-100, 0, 90])
def test_retry_after_as_a_date(ahead: int):
    date = email.utils.formatdate(time.time() + ahead, usegmt=True)
    assert parse_retry_after(date) == pytest.approx(max(0, ahead), abs=2)


@pytest.mark.parametrize("value", [None, "", "soon", "-3", "1.5", "\u00b2", "Mon, 99 Foo 99999 99:99:99 GMT", "Fri"])
def test_what_is_no_retry_after_is_none(value: str | None):
    assert parse_retry_after(value) is None


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_header_is_a_wait_or_none(value: str):
    seconds = parse_retry_after(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"pages";r=12;t=9, "resolvers";r=0;t=40'}, 40.0),
        ({"RateLimit": '"api";r=499;t=55'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"Retry-After": "2", "RateLimit": '"api";r=0;t=55'}, 2.0),
    ],
)
def test_the_hub_says_how_long_in_a_header_of_its_own(headers: dict[str, str], seconds: float | None):
    assert asked_wait(headers) == seconds


def waits_of(retry_after: float | None = None) -> tuple[list[float], list[str]]:
    """Return the waits of a backoff that fails to the end, as an event of our own sees them, and what it told."""
    waits: list[float] = []
    told: list[str] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return self.is_set()

    backoff = Backoff(Clock(), told.append)
    for _ in range(TRIES - 1):
        backoff.wait(DOWN, retry_after)
    with pytest.raises(UnavailableError) as raised:
        backoff.wait(DOWN, retry_after)
    assert raised.value is DOWN
    return waits, told


def test_it_waits_longer_each_time_and_then_gives_up():
    waits, told = waits_of()
    assert len(waits) == TRIES - 1
    assert waits == sorted(waits)
    assert 0.3 < waits[0] < 0.7
    assert sum(waits) < 15
    assert all("it is down; trying again in" in line for line in told)


def test_it_waits_as_long_as_the_server_asks_but_not_for_ever():
    waits, told = waits_of(60.0)
    assert waits == [60.0] * (TRIES - 1)
    assert told[0] == f"it is down; trying again in 60 s (1 of {TRIES - 1})"
    assert max(waits_of(float("inf"))[0]) == 900.0


def test_progress_gives_all_tries_back():
    backoff = Backoff(threading.Event(), lambda _: None, tries=2, first_wait=0.01)
    for _ in range(3):
        backoff.wait(DOWN)
        backoff.progress()
    backoff.wait(DOWN)
    with pytest.raises(UnavailableError):
        backoff.wait(DOWN)


def test_a_cancel_ends_a_wait_at_once():
    cancel = threading.Event()
    backoff = Backoff(cancel, lambda _: None)
    threading.Timer(0.1, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        backoff.wait(DOWN, 600.0)
    assert time.monotonic() - began < 30
