"""Listing what is there again and again, in a thread of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from llmstack.errors import LlmstackError, UnavailableError
from llmstack.hub_server.error_answers import RETRY_AFTER
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.reporting import write_traceback

# How long the first listing is waited for: who asks for a page meanwhile hears that there is none yet, and a probe does
# not have to guess whether the hub lives.
LONGEST_START = 5.0


class Refresher:
    """Refreshes a shelf every `interval` seconds until it is closed, and sooner after one that failed.

    `note` hears when that begins to fail, and when it works again.
    """

    def __init__(self, shelf: RepoIndex, interval: float, note: Callable[[str], None]) -> None:
        self._shelf = shelf
        self._interval = interval
        self._note = note
        self._error: LlmstackError | None = None
        self._tried = threading.Event()
        self._started = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        """Begin, and return when all is listed or a place is away, at the latest after LONGEST_START seconds.

        Raises what a person has to put right before listing can work, as far as it is known by then.
        """
        self._thread.start()
        self._tried.wait(LONGEST_START)
        if self._error and not isinstance(self._error, UnavailableError):
            raise self._error
        self._started = True

    def close(self) -> None:
        """End; a listing that is under way is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        while True:
            try:
                self._refresh()
            except Exception:
                # A bug here must not end the listing for good.
                write_traceback(sys.stderr)
            self._tried.set()
            if self._stop.wait(min(RETRY_AFTER, self._interval) if self._error else self._interval):
                return

    def _refresh(self) -> None:
        before, self._error = self._error, self._listed()
        if before and not self._error:
            self._note("listing what is there works again")
        # What `start` is going to raise is not said twice.
        heard = self._started or isinstance(self._error, UnavailableError)
        if self._error and not before and heard and not self._stop.is_set():
            self._note(f"listing what is there: {self._error}; trying again, what was known stays")

    def _listed(self) -> LlmstackError | None:
        try:
            self._shelf.refresh()
        except LlmstackError as error:
            return error
        return None
