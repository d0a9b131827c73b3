"""Interrupt a run after a number of bytes."""

from __future__ import annotations

from tests.extraction.support import RecordingReporter


class Stopped(BaseException):
    """An interrupt, as Ctrl-C raises it."""


class StoppingReporter(RecordingReporter):
    """A reporter that raises Stopped after a number of bytes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def advance(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Stopped
