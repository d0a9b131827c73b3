"""Thread-safe counters of an operation and its tasks, and the transfer rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# In seconds: long enough for a stable rate, short enough to show a stall.
RATE_WINDOW = 5.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """Progress at one moment: bytes done, bytes in total (0 if unknown), and bytes per second."""

    name: str
    done: int
    total: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """The seconds left at the current rate, or None if unknown."""
        return (self.total - self.done) / self.rate if self.rate >= 1 and self.total >= self.done else None


class _Counter:
    """Bytes done of an operation or task. Not thread-safe: ProgressTracker holds its lock around each use."""

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name, self.total, self.done, self.started = name, total, 0, now
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def snapshot(self, now: float) -> ProgressSnapshot:
        """Return the current progress; the rate covers the last RATE_WINDOW seconds."""
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        rate = max(0.0, (self.done - before) / (now - then)) if now > then else 0.0
        return ProgressSnapshot(self.name, self.done, self.total, rate)


class ProgressTracker:
    """Progress of one operation and its running tasks; safe in threads."""

    def __init__(self, title: str, total: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._operation = _Counter(title, total, clock())
        # An ordered set: the oldest task stays on the top line.
        self._running: dict[TrackedTask, None] = {}

    def task(self, name: str, size: int) -> TrackedTask:
        """Start a task of `size` bytes."""
        task = TrackedTask(self, _Counter(name, size, self._clock()))
        with self._lock:
            self._running[task] = None
        return task

    def advance(self, task: TrackedTask, size: int) -> None:
        """Count `size` bytes for the task and the operation."""
        with self._lock:
            task.counter.done += size
            self._operation.done += size

    def remove(self, task: TrackedTask) -> None:
        """Remove a running task; its bytes stay counted."""
        with self._lock:
            self._running.pop(task, None)

    def snapshot(self) -> ProgressSnapshot:
        """Return the progress of the operation."""
        with self._lock:
            return self._operation.snapshot(self._clock())

    def seconds(self) -> float:
        """Return the seconds since the operation started."""
        return self._clock() - self._operation.started

    def running(self, limit: int, min_age: float, min_size: int) -> tuple[list[ProgressSnapshot], int]:
        """Return the `limit` oldest tasks to display, and the number of further ones.

        Tasks younger than `min_age` seconds and smaller than `min_size` bytes are left out: their lines would flicker.
        """
        with self._lock:
            now = self._clock()
            shown = [
                task.counter
                for task in self._running
                if task.counter.total >= min_size or now - task.counter.started >= min_age
            ]
            return [counter.snapshot(now) for counter in shown[:limit]], max(0, len(shown) - limit)


class TrackedTask:
    """A Task that counts in a ProgressTracker."""

    __slots__ = ("_tracker", "counter")

    def __init__(self, tracker: ProgressTracker, counter: _Counter) -> None:
        self._tracker, self.counter = tracker, counter

    def advance(self, size: int) -> None:
        """Count `size` more bytes."""
        self._tracker.advance(self, size)

    def done(self) -> None:
        """Remove the task."""
        self._tracker.remove(self)
