"""The reporter without progress: for --progress none, and for --quiet, which also swallows notes."""

from __future__ import annotations

import sys
from typing import TextIO

from llmstack.reporting.base import Task
from llmstack.reporting.text import write_line


class SilentTask:
    """A Task that nobody looks at."""

    def advance(self, size: int) -> None:
        """Count nothing."""

    def done(self) -> None:
        """Show nothing."""


class QuietReporter:
    """Shows warnings, and notes unless `notes` is False; never progress."""

    def __init__(self, *, notes: bool, stream: TextIO | None = None) -> None:
        self._notes = notes
        self._stream = stream or sys.stderr

    def begin(self, title: str, total: int) -> None:
        """Show nothing."""

    def task(self, name: str, size: int) -> Task:  # noqa: ARG002 - the protocol's names
        """Return a task that nobody looks at."""
        return SilentTask()

    def end(self) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Say the note, unless quiet."""
        if self._notes:
            write_line(self._stream, message)

    def warn(self, message: str) -> None:
        """Say the warning."""
        write_line(self._stream, f"warning: {message}")
