"""Keep the completed layers of an unfinished ferry as a partial image, `<tag>--partial`.

A registry may delete blobs that no manifest refers to. The partial image refers to them, and its file index is marked
as incomplete, so that the next run reuses its layers on any machine. A worker starts its next layer only after the
partial image includes the last one: a killed run loses at most one layer per worker.
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
from llmstack.ferrying.earlier_images import EarlierImage, read_earlier_image
from llmstack.ferrying.publish import CompleteLayer, publish
from llmstack.net import Cancelled
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor, RawManifest
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter


class PartialImage:
    """Writes and removes `<tag>--partial`; safe in threads.

    `existing` is the image under that tag, `complete` the layers already in the store, and `remaining` the number of
    layers to upload.
    """

    def __init__(
        self,
        index: FileIndex,
        store: BlobStore,
        tag: str,
        existing: EarlierImage | None,
        complete: Sequence[CompleteLayer],
        remaining: int,
        reporter: Reporter,
    ) -> None:
        self._index = replace(index, incomplete=True)
        self._store = store
        self._tag = partial_tag(tag)
        self._reporter = reporter
        self._layers = list(complete)
        self._remaining = remaining
        self._parts: list[Descriptor] = []
        # The tag may belong to another repo's complete image: `gpt2/partial` is stored beside `gpt2`.
        self._may_write = existing is None or _is_same_repo(existing, index)
        self._digest = existing.digest if existing and self._may_write and existing.index.incomplete else None
        self._replace_existing = existing is not None and self._may_write
        self._lock = threading.Lock()
        self._version = 0
        # Held while writing. Changes made meanwhile are written together by the next thread.
        self._write_lock = threading.Lock()
        self._written_version = 0
        self._warned = False

    def add(self, layer: CompleteLayer) -> None:
        """Add an uploaded layer; return when the partial image includes it, or at once if it is the last layer."""
        with self._lock:
            self._layers.append(layer)
            self._remaining -= 1
            self._version += 1
            version, is_last = self._version, not self._remaining
        if not is_last:
            self._write(version)

    def add_part(self, part: Descriptor) -> None:
        """Add the layer of one part of an unfinished file, so that the registry keeps it.

        The file index does not list it, because the hash of the file is not verified yet.
        """
        with self._lock:
            self._parts.append(part)
            self._version += 1
            version = self._version
        self._write(version)

    def save(self) -> None:
        """Write the partial image unless it is up to date."""
        self._write(self._version)

    def remove(self, finished: RawManifest) -> None:
        """Delete the partial image; if the registry does not allow it, point the tag at the finished image."""
        with _removal_warning(self._store, self._tag, self._reporter):
            if self._digest or self._replace_existing:
                _delete_or_replace(self._store, self._tag, self._digest, finished)

    def _write(self, version: int) -> None:
        """Write the current state unless `version` or a later one is written; report errors as a warning."""
        with self._write_lock:
            if self._written_version >= version or not self._may_write:
                return
            with self._lock:
                layers, parts, version = list(self._layers), list(self._parts), self._version
            try:
                self._digest = publish(self._index, layers, self._store, scratch(1), self._tag, parts).digest
            except Cancelled:
                return
            except LlmstackError as error:
                if not self._warned:
                    self._reporter.warn(f"{self._index.repo_id}: the partial image could not be saved: {error}")
                self._warned = True
            self._written_version = version


def remove_partial_image(finished: EarlierImage, store: BlobStore, tag: str, reporter: Reporter) -> None:
    """Remove the partial image that a run leaves if it is stopped directly after writing `tag`."""
    tag = partial_tag(tag)
    with _removal_warning(store, tag, reporter):
        partial = read_earlier_image(store, tag)
        if (
            partial
            and partial.index.incomplete
            and _is_same_repo(partial, finished.index)
            and (partial.index.commit, partial.index.selection) == (finished.index.commit, finished.index.selection)
        ):
            _delete_or_replace(store, tag, partial.digest, finished.raw_manifest)


def _delete_or_replace(store: BlobStore, tag: str, digest: Digest | None, finished: RawManifest) -> None:
    """Delete the image under `tag`; if that fails for any reason, point the tag at the finished image."""
    try:
        if digest and store.delete_manifest(digest, tag):
            return
    except Cancelled:
        raise
    except LlmstackError:
        # Raised below if the tag cannot be written either.
        pass
    store.put_manifest(finished, tag)


@contextlib.contextmanager
def _removal_warning(store: BlobStore, tag: str, reporter: Reporter) -> Iterator[None]:
    """Report an error as a warning: the finished image is published already."""
    try:
        yield
    except LlmstackError as error:
        reporter.warn(f"{store.name}:{tag}: the partial image could not be removed: {error}")


def _is_same_repo(image: EarlierImage, index: FileIndex) -> bool:
    other = image.index
    return (other.repo_type, other.repo_id, other.revision) == (index.repo_type, index.repo_id, index.revision)
