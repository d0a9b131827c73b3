"""Naming what is complete of a repo while the rest is on its way, so that a killed run loses only what was in flight.

What no manifest names a registry may clean away, and nobody could find it again. So the complete layers are kept as an
image of their own, `<tag>--partial`, whose file index says that it is incomplete: the next run, on whatever machine,
finds them there. A worker takes its next layer when its last one has been named: what a kill costs is never more than
one layer for each worker.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.naming import partial_tag
from llmstack.errors import LlmstackError
from llmstack.ferrying.base_image import scratch
from llmstack.ferrying.earlier_images import Earlier, read_earlier
from llmstack.ferrying.publish import CompleteLayer, publish
from llmstack.net import Cancelled
from llmstack.oci.spec import Descriptor, RawManifest
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter


class Checkpoint:
    """Keeps `<tag>--partial`; safe in threads.

    `found` is what that tag names already, `complete` the layers that are there from the beginning, `moving` how many
    more there will be.
    """

    def __init__(
        self,
        head: FileIndex,
        store: BlobStore,
        tag: str,
        found: Earlier | None,
        complete: Sequence[CompleteLayer],
        moving: int,
        reporter: Reporter,
    ) -> None:
        self._head = replace(head, incomplete=True)
        self._store = store
        self._tag = partial_tag(tag)
        self._reporter = reporter
        self._layers = list(complete)
        self._missing = moving
        self._parts: list[Descriptor] = []
        # Another repo's whole image may happen to have that name: `gpt2/partial` beside `gpt2`.
        self._free = found is None or _is_of(found, head)
        self._digest = found.digest if found and self._free and found.index.incomplete else None
        self._outdated = found is not None and self._free
        self._lock = threading.Lock()
        self._news = 0
        # Held by whoever writes; what came meanwhile is written by the next one, at once for all that wait.
        self._writing = threading.Lock()
        self._written = 0
        self._warned = False

    def add(self, layer: CompleteLayer) -> None:
        """Take note of a layer that is in the store; return when it has been named, or was the last one."""
        with self._lock:
            self._layers.append(layer)
            self._missing -= 1
            self._news += 1
            news, is_last = self._news, not self._missing
        if not is_last:
            self._write(news)

    def add_part(self, part: Descriptor) -> None:
        """Name a layer with a part of a file that is not whole yet, so that the registry keeps it.

        The file index does not list it: nobody may rely on it before the file's hash has proved right.
        """
        with self._lock:
            self._parts.append(part)
            self._news += 1
            news = self._news
        self._write(news)

    def save(self) -> None:
        """Name all that is complete now, if anything is new."""
        self._write(self._news)

    def remove(self, finished: RawManifest) -> None:
        """Delete the partial image; where the registry does not allow it, let its tag name the finished one."""
        with _warned(self._store, self._tag, self._reporter):
            if self._digest and self._store.delete_manifest(self._digest):
                return
            if self._digest or self._outdated:
                self._store.put_manifest(finished, self._tag)

    def _write(self, news: int) -> None:
        """Write what is known at the latest, unless that has been done since `news`; what goes wrong is passed by."""
        with self._writing:
            if self._written >= news or not self._free:
                return
            with self._lock:
                layers, parts, news = list(self._layers), list(self._parts), self._news
            try:
                self._digest = publish(self._head, layers, self._store, scratch(1), self._tag, parts).digest
            except Cancelled:
                return
            except LlmstackError as error:
                if not self._warned:
                    self._reporter.warn(f"what is complete of {self._head.repo_id} could not be named: {error}")
                self._warned = True
            self._written = news


def remove_leftover(finished: Earlier, store: BlobStore, tag: str, reporter: Reporter) -> None:
    """Remove the partial image beside a finished one: a run that ends just after it wrote the tag leaves it."""
    tag = partial_tag(tag)
    with _warned(store, tag, reporter):
        found = read_earlier(store, tag)
        if (
            found
            and found.index.incomplete
            and _is_of(found, finished.index)
            and (found.index.commit, found.index.selection) == (finished.index.commit, finished.index.selection)
            and not store.delete_manifest(found.digest)
        ):
            store.put_manifest(finished.raw_manifest, tag)


@contextlib.contextmanager
def _warned(store: BlobStore, tag: str, reporter: Reporter) -> Iterator[None]:
    """Let a partial image that cannot be removed be no more than a warning: the finished one is there."""
    try:
        yield
    except LlmstackError as error:
        reporter.warn(f"{store.name}:{tag} could not be removed: {error}")


def _is_of(earlier: Earlier, head: FileIndex) -> bool:
    found = earlier.index
    return (found.repo_type, found.repo_id, found.revision) == (head.repo_type, head.repo_id, head.revision)
