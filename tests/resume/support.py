"""Breaking a run off wherever it is."""

from __future__ import annotations

from tests.extraction.support import Heard


class Stopped(BaseException):
    """What a person's Ctrl-C is, at any byte."""


class Stopping(Heard):
    """A reporter that breaks the run off when so many bytes have come."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def advance(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Stopped
