"""Listing what is there again and again, in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from llmstack.errors import LlmstackError, UnavailableError
from llmstack.serving.errors import RETRY_AFTER
from llmstack.serving.shelf import Shelf


class Refresher:
    """Refreshes a shelf every `interval` seconds until it is closed, and sooner after one that failed.

    `note` hears when that begins to fail, and when it works again.
    """

    def __init__(self, shelf: Shelf, interval: float, note: Callable[[str], None]) -> None:
        self._shelf = shelf
        self._interval = interval
        self._note = note
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        """List what is there, and begin; raises what a person has to put right before that can work."""
        try:
            self._shelf.refresh()
        except UnavailableError as error:
            self._failed(error)
        self._thread.start()

    def close(self) -> None:
        """End; a listing that is under way is not waited for."""
        self._stop.set()

    def _failed(self, error: LlmstackError) -> None:
        if not self._failing and not self._stop.is_set():
            self._note(f"listing what is there: {error}; trying again, what was known stays")
        self._failing = True

    def _run(self) -> None:
        while not self._stop.wait(min(RETRY_AFTER, self._interval) if self._failing else self._interval):
            try:
                self._shelf.refresh()
            except LlmstackError as error:
                self._failed(error)
            except Exception:
                # A bug here must not end the listing for good.
                traceback.print_exc()
            else:
                if self._failing:
                    self._note("listing what is there works again")
                self._failing = False
