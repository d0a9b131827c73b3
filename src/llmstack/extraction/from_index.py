"""Fetch files that a file index lists: ranges of layers, in parallel, each file verified."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock

from llmstack.carried_image.file_index import BlobRange, IndexedFile, extents
from llmstack.carried_image.image import StoredLayer
from llmstack.errors import IntegrityError, on_side
from llmstack.extraction.destination import Destination
from llmstack.extraction.fetch_plan import FetchGroup, PlannedFile, plan_fetches
from llmstack.extraction.partial_file import PartialFile
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.compression import decompressed
from llmstack.oci.reference import Digest
from llmstack.oci.store import BlobReader
from llmstack.oci.tar_reader import ChunkReader, counted
from llmstack.reporting import Reporter, Task

# Files up to this size are written by one thread at a time: writing them is all system calls, and threads that compete
# for those are many times slower than one thread. A thread buffers at most this much while it waits.
SMALL = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExtractContext:
    """What all reads of one extraction share."""

    destination: Destination
    reporter: Reporter
    cancel: Event
    jobs: int
    small_files: Lock = field(default_factory=Lock)

    def missing(self, files: Iterable[PlannedFile]) -> list[PlannedFile]:
        """Return the files that the destination does not hold yet; report progress for the others."""
        planned = list(files)
        groups = [[file] for file in planned if file.size > SMALL]
        if small := [file for file in planned if file.size <= SMALL]:
            groups.append(small)
        return [file for group in run_all(self._missing, groups, self.jobs, self.cancel) for file in group]

    def _missing(self, group: list[PlannedFile]) -> list[PlannedFile]:
        task = self.reporter.task(_name(group), sum(file.size for file in group))
        try:
            return [file for file in group if not self._exists(file, task)]
        finally:
            task.done()

    def _exists(self, file: PlannedFile, task: Task) -> bool:
        if self.cancel.is_set():
            raise Cancelled("cancelled")
        count_bytes = unless_cancelled(task.advance, self.cancel)
        return self.destination.has_file(file.path, file.file, count_bytes)

    def partial(self, file: PlannedFile) -> AbstractContextManager[PartialFile]:
        """Open a file's partial file."""
        return self.destination.partial(file.key, file.file)

    def publish(self, file: PlannedFile, partial: PartialFile) -> None:
        """Verify a complete file and publish it; raises IntegrityError."""
        if mismatch := partial.mismatch():
            self.destination.discard(partial)
            raise IntegrityError(
                f"{file.file.path!r} does not match its {mismatch} in the file index",
                hint="the image is damaged or was tampered with: ferry it again with --force",
                side="source",
            )
        self.destination.publish(partial, file.path)


def fetch(
    reader: BlobReader, layers: Mapping[Digest, StoredLayer], files: Iterable[PlannedFile], context: ExtractContext
) -> int:
    """Fetch files from the layers of an image; return how many of their bytes an earlier run had fetched.

    Raises IntegrityError, UnavailableError and what the reader raises. Files published before an error stay.
    """
    groups = plan_fetches(files, layers)
    partial_size = context.destination.partial_size
    needed = sum(file.size - min(file.size, partial_size(file.key)) for group in groups for file in group.files)
    context.destination.require_space(needed)
    fetcher = _Fetcher(reader, layers, context)
    return sum(run_all(fetcher.fetch, groups, context.jobs, context.cancel))


class _Fetcher:
    """Fetches groups of files. Safe in threads."""

    def __init__(self, reader: BlobReader, layers: Mapping[Digest, StoredLayer], context: ExtractContext) -> None:
        self._reader = reader
        self._layers = layers
        self._context = context
        self._destination = context.destination

    def fetch(self, group: FetchGroup) -> int:
        task = self._context.reporter.task(_name(group.files), group.size)
        try:
            with on_side("source", _name(group.files)):
                if len(group.files) == 1:
                    return self._fetch_one(group.files[0], task)
                self._fetch_many(group, task)
        finally:
            task.done()
        return 0

    def _fetch_one(self, file: PlannedFile, task: Task) -> int:
        """Fetch a file and resume its partial file; start over if the sha256 differs at the end."""
        with self._context.partial(file) as partial:
            if self._destination.partial_size(file.key) > file.size:
                partial.restart()
            partial.resume(unless_cancelled(task.advance, self._context.cancel))
            reused = partial.size
            with self._open(file.file, reused) as stream:
                self._copy(stream, file.size - reused, partial, task)
            if reused and partial.mismatch():
                task.advance(-file.size)
                reused = 0
                partial.restart()
                with self._open(file.file, 0) as stream:
                    self._copy(stream, file.size, partial, task)
            self._context.publish(file, partial)
        return reused

    def _fetch_many(self, group: FetchGroup, task: Task) -> None:
        """Fetch consecutive files; buffer small ones and write many at a time."""
        start = group.blob_range.offset
        buffered: list[tuple[PlannedFile, bytes]] = []
        room = SMALL
        with closing(self._read(group.blob_range)) as chunks:
            stream = ChunkReader(chunks, self._layer_names(group.blob_range.layer))
            for file in group.files:
                stream.skip(file.offset - start - stream.position)
                if file.size > SMALL:
                    with self._context.partial(file) as partial:
                        partial.restart()
                        self._copy(stream, file.size, partial, task)
                        self._context.publish(file, partial)
                    continue
                buffered.append((file, stream.read(file.size)))
                room -= file.size
                if room <= 0:
                    self._write_small(buffered, task)
                    buffered, room = [], SMALL
        self._write_small(buffered, task)

    def _write_small(self, buffered: Sequence[tuple[PlannedFile, bytes]], task: Task) -> None:
        with self._context.small_files:
            for file, data in buffered:
                if self._context.cancel.is_set():
                    raise Cancelled("cancelled")
                with self._context.partial(file) as partial:
                    partial.restart()
                    partial.write(data)
                    self._context.publish(file, partial)
                task.advance(file.size)

    def _copy(self, stream: ChunkReader, size: int, partial: PartialFile, task: Task) -> None:
        for piece in stream.pieces(size):
            if self._context.cancel.is_set():
                raise Cancelled("cancelled")
            partial.write(piece)
            task.advance(len(piece))

    @contextmanager
    def _open(self, file: IndexedFile, start: int) -> Iterator[ChunkReader]:
        """Read a file from byte `start` on, from all its layers."""
        with closing(self._read_all(extents(file, start, file.size - start))) as chunks:
            yield ChunkReader(chunks, self._layer_names(*file.layers))

    def _read_all(self, blob_ranges: Iterable[BlobRange]) -> Generator[bytes | memoryview, None, None]:
        for blob_range in blob_ranges:
            yield from self._read(blob_range)

    def _read(self, blob_range: BlobRange) -> Generator[bytes | memoryview, None, None]:
        """Yield a range of a layer's tar. A compressed layer is read from the start."""
        layer, start, size = self._layers[blob_range.layer], blob_range.offset, blob_range.size
        if not size:
            return
        stop = None if layer.compressed else start + size
        with closing(self._reader.read_blob(layer.blob, 0 if layer.compressed else start, stop)) as chunks:
            if not layer.compressed:
                yield from chunks
                return
            name = self._layer_names(blob_range.layer)
            read = counted(chunks, unless_cancelled(lambda _: None, self._context.cancel))
            stream = ChunkReader(decompressed(read, name), name)
            stream.skip(start)
            yield from stream.pieces(size)

    def _layer_names(self, *layers: Digest) -> str:
        blobs = ", ".join(self._layers[layer].blob.digest for layer in layers)
        return f"{self._reader.name}: layer {blobs}"


def _name(files: Sequence[PlannedFile]) -> str:
    """Return a name for progress and errors: paths in the repo, whatever the destination's layout."""
    return files[0].file.path if len(files) == 1 else f"{len(files)} files, {files[0].file.path} …"
