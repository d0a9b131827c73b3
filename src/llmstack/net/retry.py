"""The retry policy: how often a failed operation is repeated, and after which delay."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from llmstack.errors import LlmstackError
from llmstack.net.cancel import Cancelled

TRIES = 5
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# A server may ask for a longer delay than LONGEST_DELAY, up to this.
LONGEST_RETRY_AFTER = 900.0
# Only delays of at least this many seconds are reported.
REPORTED_DELAY = 3.0

OnFailure = Callable[[LlmstackError, float | None], None]

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of tries, and the longest delay in seconds that a server may ask for."""

    tries: int = TRIES
    longest_retry_after: float = LONGEST_RETRY_AFTER


DEFAULT_RETRY_POLICY = RetryPolicy()


class Backoff:
    """Counts failed tries since the last progress, and waits between them: exponential delays with jitter.

    All requests of one operation (reading a file, uploading a layer) share one Backoff, so that the operation fails
    after `tries` tries without progress. `on_failure` gets each error, and the delay that the server asks for.
    """

    def __init__(
        self,
        cancel: threading.Event,
        note: Callable[[str], None],
        tries: int = TRIES,
        first_delay: float = FIRST_DELAY,
        longest_retry_after: float = LONGEST_RETRY_AFTER,
        on_failure: OnFailure = lambda _error, _retry_after: None,
    ) -> None:
        self._cancel = cancel
        self._note = note
        self._tries = tries
        self._first_delay = first_delay
        self._longest_retry_after = longest_retry_after
        self._on_failure = on_failure
        self._failed = 0

    def reset(self) -> None:
        """Count from zero again, after progress."""
        self._failed = 0

    def wait(self, error: LlmstackError, retry_after: float | None = None) -> None:
        """Wait before the next try; raises `error` if there are no tries left, Cancelled if the run is cancelled."""
        self._failed += 1
        retry_after = None if retry_after is None else min(retry_after, self._longest_retry_after)
        self._on_failure(error, retry_after)
        if self._failed >= self._tries:
            raise error
        delay = min(LONGEST_DELAY, self._first_delay * 2.0 ** (self._failed - 1)) * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, not a secret
        if retry_after is not None:
            delay = max(delay, retry_after)
        if delay >= REPORTED_DELAY:
            self._note(f"{error}; retrying in {delay:.0f} s ({self._failed} of {self._tries - 1})")
        if self._cancel.wait(delay):
            raise Cancelled("cancelled") from error
