"""Naming what is complete of a repo while the rest is on its way, so that a killed run loses only what was in flight.

What no manifest names a registry may clean away, and nobody could find it again. So the complete layers are kept as an
image of their own, `<tag>--partial`, whose file index says that it is incomplete: the next run, on whatever machine,
finds them there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from llmstack.carried.fileindex import FileIndex
from llmstack.carried.naming import partial_tag
from llmstack.errors import LlmstackError
from llmstack.ferry.base import scratch
from llmstack.ferry.previous import Earlier
from llmstack.ferry.publish import CompleteLayer, publish
from llmstack.net import Cancelled
from llmstack.oci.spec import Document
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter

# Some ten requests each. A ferry that is done sooner makes no checkpoint.
INTERVAL = 15.0


class Checkpoint:
    """Keeps `<tag>--partial` while its `with` block runs.

    `found` is what that tag names already, `complete` the layers that are there from the beginning.
    """

    def __init__(
        self,
        head: FileIndex,
        store: BlobStore,
        tag: str,
        found: Earlier | None,
        complete: Sequence[CompleteLayer],
        reporter: Reporter,
    ) -> None:
        self._head = replace(head, incomplete=True)
        self._store = store
        self._tag = partial_tag(tag)
        self._reporter = reporter
        self._layers = list(complete)
        self._named = len(complete)
        # Another repo's whole image may happen to have that name: `gpt2/partial` beside `gpt2`.
        self._free = found is None or _is_of(found, head)
        self._digest = found.digest if found and self._free and found.index.incomplete else None
        self._outdated = found is not None and self._free
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._news.set()
        self._thread.join()

    def add(self, layer: CompleteLayer) -> None:
        """Take note of a layer that is in the store; safe in threads."""
        with self._lock:
            self._layers.append(layer)
        self._news.set()

    def save(self) -> None:
        """Name all that is complete now, if anything is new; what goes wrong is said and passed by."""
        with self._lock:
            layers = list(self._layers)
        if len(layers) == self._named or not self._free:
            return
        try:
            self._digest = publish(self._head, layers, self._store, scratch(1), self._tag).digest
            self._named = len(layers)
        except Cancelled:
            return
        except LlmstackError as error:
            self._reporter.warn(f"what is complete of {self._head.repo_id} could not be named: {error}")

    def remove(self, finished: Document) -> None:
        """Delete the partial image; where the registry does not allow it, let its tag name the finished one."""
        try:
            if self._digest and self._store.delete_manifest(self._digest):
                return
            if self._digest or self._outdated:
                self._store.put_manifest(finished, self._tag)
        except LlmstackError as error:
            self._reporter.warn(f"{self._store.name}:{self._tag} could not be removed: {error}")

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._news.wait()
            if self._stopped.is_set():
                return
            self._news.clear()
            self.save()


def _is_of(earlier: Earlier, head: FileIndex) -> bool:
    found = earlier.index
    return (found.repo_type, found.repo_id, found.revision) == (head.repo_type, head.repo_id, head.revision)
