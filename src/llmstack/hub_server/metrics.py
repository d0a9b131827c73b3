"""Counters in Prometheus' text format (exposition format 0.0.4), in memory that all worker processes share.

Each worker writes its own slots only, so that no lock is needed; any of them can add them up.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from enum import IntEnum

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "OTHER", "PATCH", "POST", "PUT")
PREFIX = "llmstack_hub_"
# The status is 0 if the connection ended before the response.
_STATUSES = 600
_SLOT = 8


class Slot(IntEnum):
    """What a worker counts; the slots of requests by method and status come after these."""

    OPEN_REQUESTS = 0
    OPEN_READS = 1
    # Open connections. It decides which worker accepts the next one.
    LOAD = 2
    SECONDS = 3
    BYTES_SENT = 4


_SLOTS = len(Slot) + len(METHODS) * _STATUSES


class Metrics:
    """The counters of all workers since the start of the hub; each one is used by its worker's event loop only.

    A worker that is replaced continues its counters: they never decrease.
    """

    def __init__(self, workers: int = 1) -> None:
        # Anonymous and shared: forked processes see the same memory.
        numbers = memoryview(mmap.mmap(-1, workers * _SLOTS * _SLOT)).cast("d")
        self._all = [numbers[worker * _SLOTS : (worker + 1) * _SLOTS] for worker in range(workers)]
        self._own = self._all[0]

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._all)

    def become(self, worker: int) -> None:
        """Count for this worker; it has nothing open yet."""
        self._own = self._all[worker]
        self.reset(worker)

    def reset(self, worker: int, load: float = 0.0) -> None:
        """Forget what is open in a worker that has ended, or begins."""
        numbers = self._all[worker]
        for slot in (Slot.OPEN_REQUESTS, Slot.OPEN_READS):
            numbers[slot] = 0.0
        numbers[Slot.LOAD] = load

    def add(self, slot: Slot, value: float) -> None:
        """Add to a counter or a gauge of this worker."""
        self._own[slot] += value

    def set_load(self, load: int) -> None:
        """Tell the other workers how many connections are open."""
        self._own[Slot.LOAD] = load

    def has_lowest_load(self) -> bool:
        """Tell whether no other worker has fewer open connections."""
        return all(numbers[Slot.LOAD] >= self._own[Slot.LOAD] for numbers in self._all)

    def total(self, slot: int) -> float:
        """Return what all workers have counted."""
        return sum(numbers[slot] for numbers in self._all)

    def count(self, method: str, status: int, size: int, seconds: float) -> None:
        """Count an answered request; unknown methods count as OTHER."""
        self._own[_requests(method if method in METHODS else "OTHER", status)] += 1
        self._own[Slot.BYTES_SENT] += size
        self._own[Slot.SECONDS] += seconds

    def text(self, *, repos: int, refreshed: float | None) -> str:
        """Return the metrics of all workers; the arguments are further gauges."""
        total = self.total
        lines = [f"# HELP {PREFIX}requests_total Requests answered.", f"# TYPE {PREFIX}requests_total counter"]
        lines += [
            f'{PREFIX}requests_total{{method="{method}",status="{status}"}} {count:.0f}'
            for method in METHODS
            for status in range(_STATUSES)
            if (count := total(_requests(method, status)))
        ]
        lines += _single("request_seconds_total", "counter", "Time spent on requests.", total(Slot.SECONDS))
        lines += _single("sent_bytes_total", "counter", "Bytes sent in response bodies.", total(Slot.BYTES_SENT))
        lines += _single("open_requests", "gauge", "Requests in progress.", total(Slot.OPEN_REQUESTS))
        lines += _single("open_reads", "gauge", "File transfers in progress.", total(Slot.OPEN_READS))
        lines += _single("workers", "gauge", "Worker processes.", self.workers)
        lines += _single("repos", "gauge", "Repos served.", repos)
        lines += _single("refreshed_timestamp_seconds", "gauge", "When the last refresh ended.", refreshed or 0)
        return "\n".join(lines) + "\n"


def _requests(method: str, status: int) -> int:
    return len(Slot) + METHODS.index(method) * _STATUSES + status


def _single(name: str, type_: str, description: str, value: float) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {description}"
    yield f"# TYPE {PREFIX}{name} {type_}"
    yield f"{PREFIX}{name} {value}"
