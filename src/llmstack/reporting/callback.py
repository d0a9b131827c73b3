"""The reporter of the Python API: progress goes to a callback, messages go to the logger "llmstack"."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from llmstack.reporting.reporter import Task

_LOGGER = logging.getLogger("llmstack")
# Without a handler, Python prints warnings to stderr.
_LOGGER.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far the current operation is: its title, and bytes done of bytes in total."""

    title: str
    done: int
    total: int


class CallbackReporter:
    """Calls `on_progress` after each chunk, from the thread that moved it, one call at a time."""

    def __init__(self, on_progress: Callable[[ProgressEvent], None] | None = None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._title, self._done, self._total = "", 0, 0

    def begin(self, title: str, total: int) -> None:
        """Report the start of an operation."""
        with self._lock:
            self._title, self._done, self._total = title, 0, total
            self._emit()

    def task(self, name: str, size: int) -> Task:  # noqa: ARG002 - the protocol's names
        """Return a task that adds to the operation's bytes."""
        return _CallbackTask(self)

    def end(self) -> None:
        """Do nothing: the last event had the last count."""

    def note(self, message: str) -> None:
        """Log at level INFO."""
        _LOGGER.info(message)

    def warn(self, message: str) -> None:
        """Log at level WARNING."""
        _LOGGER.warning(message)

    def advance(self, size: int) -> None:
        """Add bytes and report them."""
        with self._lock:
            self._done += size
            self._emit()

    def _emit(self) -> None:
        if self._on_progress:
            self._on_progress(ProgressEvent(self._title, self._done, self._total))


class _CallbackTask:
    def __init__(self, reporter: CallbackReporter) -> None:
        self._reporter = reporter

    def advance(self, size: int) -> None:
        """Add bytes to the operation."""
        self._reporter.advance(size)

    def done(self) -> None:
        """Do nothing: the bytes stay counted."""
