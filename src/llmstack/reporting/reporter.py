"""The Reporter protocol: how long-running functions report progress, notes and warnings.

Implement it to receive them in your own code. The implementations of llmstack write to stderr.
"""

from __future__ import annotations

import sys
from typing import Protocol, TextIO

from llmstack.reporting.text import write_line


class Task(Protocol):
    """One running transfer or step, usually a file or a layer. Methods may be called from any thread."""

    def advance(self, size: int) -> None:
        """Count `size` more bytes; negative when bytes must be transferred again."""

    def done(self) -> None:
        """Remove the task from the display; its bytes stay in the total. A second call does nothing."""


class Reporter(Protocol):
    """Receives progress and messages. Methods may be called from any thread."""

    def begin(self, title: str, total: int) -> None:
        """Start an operation of `total` bytes, named `title`."""

    def task(self, name: str, size: int) -> Task:
        """Start one file or layer of `size` bytes inside the current operation."""

    def end(self) -> None:
        """End the current operation and remove its progress lines."""

    def note(self, message: str) -> None:
        """Show one line of information."""

    def warn(self, message: str) -> None:
        """Show one line about a possible problem that does not stop the operation."""


class SilentTask:
    """A Task without a display."""

    def advance(self, size: int) -> None:
        """Do nothing."""

    def done(self) -> None:
        """Do nothing."""


class QuietReporter:
    """Shows no progress; shows notes and warnings only where asked to."""

    def __init__(self, *, notes: bool = False, warnings: bool = False, stream: TextIO | None = None) -> None:
        self._notes = notes
        self._warnings = warnings
        self._stream = stream or sys.stderr

    def begin(self, title: str, total: int) -> None:
        """Do nothing."""

    def task(self, name: str, size: int) -> Task:  # noqa: ARG002 - the protocol's names
        """Return a task without a display."""
        return SilentTask()

    def end(self) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Write the note, if notes are shown."""
        if self._notes:
            write_line(self._stream, message)

    def warn(self, message: str) -> None:
        """Write the warning, if warnings are shown."""
        if self._warnings:
            write_line(self._stream, f"warning: {message}")
