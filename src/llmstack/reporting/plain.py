"""The reporter for logs and pipes: a line when work begins, one now and then, one when it ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TextIO

from llmstack.reporting.base import Task
from llmstack.reporting.tally import Tally
from llmstack.reporting.text import human_progress, human_size, human_time, write_line

INTERVAL = 10.0


class PlainReporter:
    """Writes lines such as `facebook/opt-125m: 1.2 of 2.0 GB, 140 MB/s, 6 s left`, one every `interval` seconds."""

    def __init__(self, *, stream: TextIO | None = None, interval: float = INTERVAL) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval
        self._tally = Tally("", 0)
        self._ticker: _Ticker | None = None

    def begin(self, title: str, total: int) -> None:
        """Say what begins, and start the line now and then."""
        self.end()
        self._tally = Tally(title, total)
        write_line(self._stream, f"{title}: {human_size(total)}" if total else title)
        self._ticker = _Ticker(self._interval, self._say_progress)

    def task(self, name: str, size: int) -> Task:
        """Start a task; it has no line of its own."""
        return self._tally.task(name, size)

    def end(self) -> None:
        """Say how far the work came, if anything moved."""
        if self._ticker is None:
            return
        self._ticker.stop()
        self._ticker = None
        work, seconds = self._tally.standing(), self._tally.seconds()
        if work.done:
            moved = human_size(work.done) if work.done == work.total else human_progress(work.done, work.total)
            rate = f", {human_size(work.done / seconds)}/s" if seconds >= 1 else ""
            write_line(self._stream, f"{work.name}: {moved} in {human_time(seconds)}{rate}")

    def note(self, message: str) -> None:
        """Say the note."""
        write_line(self._stream, message)

    def warn(self, message: str) -> None:
        """Say the warning."""
        write_line(self._stream, f"warning: {message}")

    def _say_progress(self) -> None:
        work = self._tally.standing()
        left = work.seconds_left
        parts = [human_progress(work.done, work.total), f"{human_size(work.rate)}/s"]
        if work.total and left is not None:
            parts.append(f"{human_time(left)} left")
        write_line(self._stream, f"{work.name}: {', '.join(parts)}")


class _Ticker:
    """Calls a function every `interval` seconds from its own thread until it is stopped."""

    def __init__(self, interval: float, call: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(interval, call), name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when no further call comes."""
        self._stopped.set()
        self._thread.join()

    def _run(self, interval: float, call: Callable[[], None]) -> None:
        while not self._stopped.wait(interval):
            call()
