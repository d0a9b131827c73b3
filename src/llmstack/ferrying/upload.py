"""Upload the planned layers: files are read from their source, hashed, and written as layers into the destination."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from llmstack.carried_image.file_index import BlobRange, IndexedFile
from llmstack.errors import LlmstackError, on_side
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.ferrying.layer_stream import Chunks, LayerStream, PartStream, TransferTime
from llmstack.ferrying.publish import layer_annotations
from llmstack.hf.file_hash import FileHash, hash_while_reading
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.oci.spec import LAYER_TAR, Descriptor
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter, Task


class FileSource(Protocol):
    """Where a repo's files come from: the Hub, a script, or this machine. Methods may be called from any thread."""

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Resolve a revision to its commit; raises LlmstackError."""

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """List the files of a commit, with the expected hashes."""

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`, not verified."""

    def mismatch(self, file: HubFile) -> LlmstackError:
        """Return the error for bytes that do not have the expected hash."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Uploads the layers of one repo.

    `read_ahead` opens small files in advance. `on_part` is called with each uploaded part of a file except the last.
    `waits` is measured.
    """

    source: FileSource
    info: RepoInfo
    store: BlobStore
    reporter: Reporter
    read_ahead: Executor
    on_part: Callable[[Descriptor], None]
    waits: TransferTime = field(default_factory=TransferTime)

    def upload(self, planned: PlannedLayer | SplitFile) -> tuple[IndexedFile, ...]:
        """Upload a layer or a split file, and return the entries of the file index.

        If it raises, the store has no complete copy of any of the files: the last byte is written after verification.
        """
        task = self.reporter.task(planned.name, sum(file.size for file in planned.files))
        try:
            if isinstance(planned, SplitFile):
                return (self._upload_parts(planned, task),)
            return self._upload_layer(planned, task)
        finally:
            task.done()

    def _upload_layer(self, layer: PlannedLayer, task: Task) -> tuple[IndexedFile, ...]:
        sha256: dict[str, str] = {}

        def on_verified(file: HubFile, digest: str) -> None:
            sha256[file.path] = digest

        def read(file: HubFile) -> Chunks:
            chunks = self.source.read(self.info, file, 0, file.size)
            return hash_while_reading(file, chunks, on_verified, self.source.mismatch)

        stream = LayerStream(layer, read, self.read_ahead, task)
        with on_side("destination", layer.name):
            digest, _ = self.store.write_blob(partial(self._measured, stream))
        return tuple(
            IndexedFile(file.path, file.size, file.oid, sha256[file.path], (BlobRange(digest, start, file.size),))
            for file, start in zip(layer.files, layer.offsets, strict=True)
        )

    def _upload_parts(self, split: SplitFile, task: Task) -> IndexedFile:
        """Upload a file's parts in order, because one hash covers all of them."""
        file, ranges, start = split.file, [], 0
        file_hash = FileHash(file)
        for part, offset in zip(split.tar_files, split.offsets, strict=True):
            stop = start + part.size
            read = partial(self.source.read, self.info, file, start, stop)
            check = partial(self._check, file) if stop == file.size else None
            stream = PartStream(part, read, file_hash, task, check)
            with on_side("destination", split.name):
                digest, size = self.store.write_blob(partial(self._measured, stream))
            if stop < file.size:
                self.on_part(Descriptor(LAYER_TAR, digest, size, layer_annotations(split)))
            file_hash, start = stream.hash_after, stop
            ranges.append(BlobRange(digest, offset, part.size))
        return IndexedFile(file.path, file.size, file.oid, file_hash.sha256, tuple(ranges))

    def _measured(self, stream: LayerStream | PartStream) -> Chunks:
        return self.waits.measure(stream())

    def _check(self, file: HubFile, file_hash: FileHash) -> None:
        if not file_hash.matches:
            raise self.source.mismatch(file)
