"""A lock for requests to a registry that may not answer."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from llmstack.errors import UnavailableError


class BoundedLock:
    """A lock with a bounded wait.

    Waiters give up after `longest` seconds, and at once if the holder has had the lock for longer: when a registry does
    not answer, one thread waits for it, not all.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._lock = threading.Lock()
        # When waiters give up.
        self._until = math.inf

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; raises UnavailableError if another thread holds it for too long."""
        left = self._until - time.monotonic()
        if not self._lock.acquire(timeout=min(self._longest, max(0.0, left))):
            raise UnavailableError("the registry does not answer: new repos cannot be looked up now")
        try:
            self._until = time.monotonic() + self._longest
            yield
        finally:
            self._until = math.inf
            self._lock.release()
