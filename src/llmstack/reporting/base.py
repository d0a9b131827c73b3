"""The Reporter protocol: what ferry, extract and build tell while they run. Implementations write to stderr only."""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """One running piece of work, usually a file or a layer; safe to advance from any thread."""

    def advance(self, size: int) -> None:
        """Tell that `size` more bytes are done; negative when bytes have to be moved again."""

    def done(self) -> None:
        """Take the task off the display; its bytes stay in the total. Calling it twice does nothing."""


class Reporter(Protocol):
    """Where progress and messages go. Methods may be called from any thread."""

    def begin(self, title: str, total: int) -> None:
        """Start a piece of work of `total` bytes, named `title`; the overall progress counts against it."""

    def task(self, name: str, size: int) -> Task:
        """Start one file or layer of `size` bytes inside what was begun."""

    def end(self) -> None:
        """Close what was begun and clear its progress lines."""

    def note(self, message: str) -> None:
        """Say one line that is worth keeping on the screen."""

    def warn(self, message: str) -> None:
        """Say one line about something that may be wrong but does not stop the work."""
