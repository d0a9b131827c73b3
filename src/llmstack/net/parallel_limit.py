"""How many connections large objects are read with, and how much memory is used for reading ahead: one per client.

More connections are used only while they make the transfer faster: a connection is often limited, by the server or by
its round trip, while the link is not. The number doubles while the bytes per second of all readers grow, and goes back
if they do not, or if the server refuses a request.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

# Memory for bytes that were read ahead, shared by all readers of a client.
READ_AHEAD = 40 * 1024 * 1024
MAX_CONNECTIONS = 16
_LARGEST_STRETCH = 8 * 1024 * 1024
_SMALLEST_STRETCH = 1024 * 1024
# Seconds after a change before the rate is measured (new connections start slowly), and of the measurement.
_SETTLE = 0.3
_MEASURE = 0.4
# The rate must grow by this factor, or the number of connections goes back.
_GAIN = 1.15
# Readers that wait for less than this share of the time have another limit than the connection.
_WAITING = 0.2
# Seconds until more connections are tried again, after they gained nothing (twice as long each time), and after a
# refusal.
_HOLD = 3.0
_LONGEST_HOLD = 48.0
_HOLD_AFTER_REFUSAL = 30.0
# Seconds before a stretch is requested again, if the server names none.
_DELAY_AFTER_REFUSAL = 0.5


class ParallelLimit:
    """The connections and the memory that all readers of a client share, from `connections` on; safe in threads."""

    def __init__(self, connections: int = 1) -> None:
        self._lock = threading.Lock()
        self._connections = connections
        self._before: tuple[int, float] | None = None
        self._readers = 0
        self._free = READ_AHEAD
        self._measured_from = 0.0
        self._received = 0
        self._waited = 0.0
        self._hold = _HOLD
        self._hold_until = 0.0
        self._not_before = 0.0

    @contextlib.contextmanager
    def reader(self) -> Iterator[None]:
        """Count a reader of a large object."""
        with self._lock:
            self._readers += 1
            self._measure_again(time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                self._measure_again(time.monotonic())

    @property
    def delay(self) -> float:
        """The seconds that a server has asked to wait for, from now."""
        return self._not_before - time.monotonic()

    def stretch(self) -> int:
        """Return the number of bytes to read ahead with one request: room for some stretches per connection."""
        return min(_LARGEST_STRETCH, max(_SMALLEST_STRETCH, 2 * READ_AHEAD // (3 * self._connections)))

    def reserve(self, size: int) -> bool:
        """Reserve memory for bytes that are read ahead, if there is enough."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def release(self, size: int) -> None:
        """Return memory."""
        with self._lock:
            self._free += size

    def received(self, size: int) -> None:
        """Count bytes that a connection has received."""
        with self._lock:
            if time.monotonic() >= self._measured_from:
                self._received += size

    def refused(self, delay: float | None) -> None:
        """Go back to one connection for each reader, because the server refused a request; wait for `delay` seconds."""
        with self._lock:
            now = time.monotonic()
            self._connections, self._before = 1, None
            self._not_before = max(self._not_before, now + max(delay or 0.0, _DELAY_AFTER_REFUSAL))
            self._hold_until = max(now + _HOLD_AFTER_REFUSAL, self._not_before)
            self._measure_again(now)

    def share(self, waited: float) -> int:
        """Return the number of connections for one reader, after it waited for bytes for some seconds."""
        with self._lock:
            now = time.monotonic()
            if now >= self._measured_from:
                self._waited += waited
            if now - self._measured_from >= _MEASURE:
                self._decide(now)
            return max(1, self._connections // max(1, self._readers))

    def _decide(self, now: float) -> None:
        """Keep, double or take back the number of connections, after a measurement."""
        seconds = now - self._measured_from
        rate, waiting = self._received / seconds, self._waited / seconds / max(1, self._readers)
        if self._before is not None:
            connections, rate_before = self._before
            self._before = None
            if rate >= rate_before * _GAIN:
                self._hold = _HOLD
            else:
                self._connections, self._hold_until = connections, now + self._hold
                self._hold = min(_LONGEST_HOLD, 2 * self._hold)
        in_use = max(self._connections, self._readers)
        if waiting > _WAITING and in_use < MAX_CONNECTIONS and now >= self._hold_until:
            self._before = self._connections, rate
            self._connections = min(MAX_CONNECTIONS, 2 * in_use)
            self._measure_again(now)
        else:
            self._measure_again(now - _SETTLE)

    def _measure_again(self, now: float) -> None:
        self._measured_from = now + _SETTLE
        self._received, self._waited = 0, 0.0
