"""The one retry policy: how often something that failed is tried again, and how long to wait before."""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmstack.errors import LlmstackError
from llmstack.net.cancel import Cancelled

TRIES = 5
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# A server may ask for more patience than we would have by ourselves, but not for ever.
LONGEST_RETRY_AFTER = 900.0
# Waits shorter than this are not worth a line on the screen.
WORTH_TELLING = 3.0

_RATE_LIMIT = re.compile(r";\s*r=([0-9]{1,9})\s*;\s*t=([0-9]{1,9})")

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something is tried, and how many seconds a server may ask us to wait at most before the next try."""

    tries: int = TRIES
    longest_retry_after: float = LONGEST_RETRY_AFTER


DEFAULT_RETRY_POLICY = RetryPolicy()


class Backoff:
    """Counts failed tries since the last progress and waits between them, longer each time, with jitter.

    Whatever is done for one purpose shares one count, however many requests of however many kinds it takes: reading a
    file, uploading a layer. So there are never more than `tries` in a row that bring nothing.
    """

    def __init__(
        self,
        cancel: threading.Event,
        note: Callable[[str], None],
        tries: int = TRIES,
        first_wait: float = FIRST_WAIT,
        longest_retry_after: float = LONGEST_RETRY_AFTER,
    ) -> None:
        self._cancel = cancel
        self._note = note
        self._tries = tries
        self._first_wait = first_wait
        self._longest_retry_after = longest_retry_after
        self._failed = 0

    def progress(self) -> None:
        """Start counting anew: something was achieved since the last failure."""
        self._failed = 0

    def wait(self, error: LlmstackError, retry_after: float | None = None) -> None:
        """Wait before the next try; raises `error` when there is to be none, Cancelled when the run ends."""
        self._failed += 1
        if self._failed >= self._tries:
            raise error
        delay = min(LONGEST_WAIT, self._first_wait * 2.0 ** (self._failed - 1)) * random.uniform(0.7, 1.3)  # noqa: S311 - jitter, not a secret
        if retry_after is not None:
            delay = max(delay, min(retry_after, self._longest_retry_after))
        if delay >= WORTH_TELLING:
            self._note(f"{error}; trying again in {delay:.0f} s ({self._failed} of {self._tries - 1})")
        if self._cancel.wait(delay):
            raise Cancelled("cancelled") from error


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a refused request is asked to wait; None when the server does not say.

    It says so in Retry-After, the Hugging Face Hub in RateLimit (draft-ietf-httpapi-ratelimit-headers): `t` is the time
    until a quota of which `r` is left is full again.
    """
    seconds = parse_retry_after(headers.get("Retry-After"))
    if seconds is not None:
        return seconds
    used_up = [int(t) for r, t in _RATE_LIMIT.findall(headers.get("RateLimit", "")) if int(r) == 0]
    return float(max(used_up)) if used_up else None


def parse_retry_after(value: str | None) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3) as seconds from now; None when there is none to read."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
