"""Waiting for what one thread alone may do at a time, but not for long."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from llmstack.errors import UnavailableError


class Turn:
    """Lets one thread in at a time; the others wait `longest` seconds, and not at all for one that is in for longer.

    So where the one that is in hears nothing from a registry, the threads of all others are free again at once.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._lock = threading.Lock()
        # Until when the others wait for who is in.
        self._until = math.inf

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Be the one; raises UnavailableError where another one is for too long."""
        left = self._until - time.monotonic()
        if not self._lock.acquire(timeout=min(self._longest, max(0.0, left))):
            raise UnavailableError("the registry takes its time: what is not known yet cannot be looked for now")
        try:
            self._until = time.monotonic() + self._longest
            yield
        finally:
            self._until = math.inf
            self._lock.release()
