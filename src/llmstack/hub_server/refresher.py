"""Refreshing the index again and again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from llmstack.errors import LlmstackError, UnavailableError
from llmstack.hub_server.error_answers import RETRY_AFTER
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.reporting import write_traceback

# The hub starts to listen after this time, in seconds, even if the first refresh has not ended: it then answers 503.
LONGEST_START = 5.0


class Refresher:
    """Refreshes the index every `interval` seconds, sooner after a failure, until it is closed.

    `note` gets a message when refreshing starts to fail, and when it works again.
    """

    def __init__(self, repo_index: RepoIndex, interval: float, note: Callable[[str], None]) -> None:
        self._repo_index = repo_index
        self._interval = interval
        self._note = note
        self._then: Callable[[], None] = lambda: None
        self._error: LlmstackError | None = None
        self._tried = threading.Event()
        self._started = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self, then: Callable[[], None]) -> None:
        """Start the thread and wait for the first refresh, at most LONGEST_START seconds; call `then` after each one.

        Raises the error of that refresh if the user must fix it, and not if the registry is unavailable.
        """
        self._then = then
        self._thread.start()
        self._tried.wait(LONGEST_START)
        if self._error and not isinstance(self._error, UnavailableError):
            raise self._error
        self._started = True

    def close(self) -> None:
        """Stop, without waiting for a refresh in progress."""
        self._stop.set()

    def _run(self) -> None:
        while True:
            for do in (self._refresh, self._tried.set, self._then):
                try:
                    do()
                except Exception:
                    # A bug must not end the thread.
                    write_traceback(sys.stderr)
            if self._stop.wait(min(RETRY_AFTER, self._interval) if self._error else self._interval):
                return

    def _refresh(self) -> None:
        before, self._error = self._error, self._listed()
        if before and not self._error:
            self._note(f"{self._repo_index.name}: listing works again")
        # `start` raises the others.
        is_news = self._started or isinstance(self._error, UnavailableError)
        if self._error and not before and is_news and not self._stop.is_set():
            self._note(f"{self._repo_index.name}: listing failed: {self._error}; retrying, the known repos stay")

    def _listed(self) -> LlmstackError | None:
        try:
            self._repo_index.refresh()
        except LlmstackError as error:
            return error
        return None
