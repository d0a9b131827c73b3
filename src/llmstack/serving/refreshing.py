"""Listing what is there again and again, in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from llmstack.errors import LlmstackError
from llmstack.serving.errors import RETRY_AFTER
from llmstack.serving.shelf import Shelf

# Between two listings, in seconds: one request per tag each time.
INTERVAL = 60.0


class Refresher:
    """Refreshes a shelf until it is closed; `note` hears when that begins to fail, and when it works again."""

    def __init__(self, shelf: Shelf, note: Callable[[str], None]) -> None:
        self._shelf = shelf
        self._note = note
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a listing that is under way is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        failing = False
        while not self._stop.wait(RETRY_AFTER if failing else INTERVAL):
            try:
                self._shelf.refresh()
            except LlmstackError as error:
                if not failing and not self._stop.is_set():
                    self._note(f"listing what is there: {error}; what was known stays")
                failing = True
            except Exception:
                # A bug here must not end the listing for good.
                traceback.print_exc()
            else:
                if failing:
                    self._note("listing what is there works again")
                failing = False
