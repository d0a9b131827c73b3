"""The reporter for logs and pipes: lines at the start, at intervals and at the end of an operation."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TextIO

from llmstack.interrupts import postponed_signals
from llmstack.reporting.progress import ProgressTracker
from llmstack.reporting.reporter import Task
from llmstack.reporting.text import human_progress, human_size, human_time, write_line

INTERVAL = 10.0


class PlainReporter:
    """Writes lines such as `facebook/opt-125m: 1.2 of 2.0 GB, 140 MB/s, 6 s left`, one every `interval` seconds."""

    def __init__(self, *, stream: TextIO | None = None, interval: float = INTERVAL) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval
        self._tracker = ProgressTracker("", 0)
        self._ticker: _Ticker | None = None

    def begin(self, title: str, total: int) -> None:
        """Write the title and start the progress lines."""
        self.end()
        self._tracker = ProgressTracker(title, total)
        write_line(self._stream, f"{title}: {human_size(total)}" if total else title)
        with postponed_signals():
            self._ticker = _Ticker(self._interval, self._write_progress)

    def task(self, name: str, size: int) -> Task:
        """Start a task; only the operation has lines."""
        return self._tracker.task(name, size)

    def end(self) -> None:
        """Write the total, if any bytes were counted."""
        if self._ticker is None:
            return
        with postponed_signals():
            self._ticker.stop()
            self._ticker = None
        progress, seconds = self._tracker.snapshot(), self._tracker.seconds()
        if progress.done:
            complete = progress.done == progress.total
            size = human_size(progress.done) if complete else human_progress(progress.done, progress.total)
            rate = f", {human_size(progress.done / seconds)}/s" if seconds >= 1 else ""
            write_line(self._stream, f"{progress.name}: {size} in {human_time(seconds)}{rate}")

    def note(self, message: str) -> None:
        """Write the note."""
        write_line(self._stream, message)

    def warn(self, message: str) -> None:
        """Write the warning."""
        write_line(self._stream, f"warning: {message}")

    def _write_progress(self) -> None:
        progress = self._tracker.snapshot()
        left = progress.seconds_left
        fields = [human_progress(progress.done, progress.total), f"{human_size(progress.rate)}/s"]
        if progress.total and left is not None:
            fields.append(f"{human_time(left)} left")
        write_line(self._stream, f"{progress.name}: {', '.join(fields)}")


class _Ticker:
    """Calls a function every `interval` seconds, on its own thread, until stopped."""

    def __init__(self, interval: float, call: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(interval, call), name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for a running call to return."""
        self._stopped.set()
        self._thread.join()

    def _run(self, interval: float, call: Callable[[], None]) -> None:
        while not self._stopped.wait(interval):
            call()
