"""What has been done of a piece of work: counters that many threads advance, and the rate that they go at."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# Long enough to calm the figure, short enough to show a stall.
RATE_WINDOW = 5.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far something is: bytes done and to do (0: not known), bytes a second, and seconds left (None: not known)."""

    name: str
    done: int
    total: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the end at the present rate."""
        return (self.total - self.done) / self.rate if self.rate >= 1 and self.total >= self.done else None


class Counter:
    """Bytes done of something. Not safe by itself: a Tally's lock guards it."""

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name, self.total, self.done, self.started = name, total, 0, now
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def standing(self, now: float) -> Standing:
        """Return how far it is; the rate is that since the calls of the last RATE_WINDOW seconds."""
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        rate = max(0.0, (self.done - before) / (now - then)) if now > then else 0.0
        return Standing(self.name, self.done, self.total, rate)


class Tally:
    """One piece of work and its running tasks. Counting is a lock and two additions, whatever shows it."""

    def __init__(self, title: str, total: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._work = Counter(title, total, clock())
        # A dict for its order: the oldest task stays on the top line.
        self._running: dict[TallyTask, None] = {}

    def task(self, name: str, size: int) -> TallyTask:
        """Start a task of `size` bytes."""
        task = TallyTask(self, Counter(name, size, self._clock()))
        with self._lock:
            self._running[task] = None
        return task

    def advance(self, task: TallyTask, size: int) -> None:
        """Count `size` bytes for the task and for the whole."""
        with self._lock:
            task.counter.done += size
            self._work.done += size

    def remove(self, task: TallyTask) -> None:
        """Forget a running task; its bytes stay counted."""
        with self._lock:
            self._running.pop(task, None)

    def standing(self) -> Standing:
        """Return how far the whole is."""
        with self._lock:
            return self._work.standing(self._clock())

    def seconds(self) -> float:
        """Return how long the work has been running."""
        return self._clock() - self._work.started

    def running(self, limit: int, min_age: float, min_size: int) -> tuple[list[Standing], int]:
        """Return the `limit` oldest tasks that are worth a line, and how many more there are.

        Worth a line is what has run for `min_age` seconds or has `min_size` bytes: a line that is gone before it
        can be read only flickers.
        """
        with self._lock:
            now = self._clock()
            worth = [
                task.counter
                for task in self._running
                if task.counter.total >= min_size or now - task.counter.started >= min_age
            ]
            return [counter.standing(now) for counter in worth[:limit]], max(0, len(worth) - limit)


class TallyTask:
    """The Task of a Tally."""

    __slots__ = ("_tally", "counter")

    def __init__(self, tally: Tally, counter: Counter) -> None:
        self._tally, self.counter = tally, counter

    def advance(self, size: int) -> None:
        """Count `size` more bytes."""
        self._tally.advance(self, size)

    def done(self) -> None:
        """Take the task off the display."""
        self._tally.remove(self)
