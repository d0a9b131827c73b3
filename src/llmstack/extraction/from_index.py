"""Fetching files whose place and hash a file index tells: ranges of layers, in parallel, each file verified."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock

from llmstack.carried_image.file_index import BlobRange, IndexedFile, extents
from llmstack.carried_image.image import StoredLayer
from llmstack.errors import IntegrityError, on_side
from llmstack.extraction.destination import Destination, Part
from llmstack.extraction.fetch_plan import PlannedFile, Span, plan_spans
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.compression import decompressed
from llmstack.oci.reference import Digest
from llmstack.oci.store import BlobReader
from llmstack.oci.tar_reader import ChunkReader, counted
from llmstack.reporting import Reporter, Task

# Files up to this size are written by one thread at a time: they are all system calls, and threads that take turns at
# those take many times as long as one alone. What one thread reads ahead meanwhile is no more than this, too.
SMALL = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Worker:
    """What all reads of one run share."""

    destination: Destination
    reporter: Reporter
    cancel: Event
    jobs: int
    writing_small: Lock = field(default_factory=Lock)

    def missing(self, files: Iterable[PlannedFile]) -> list[PlannedFile]:
        """Return the files that are not there whole; those that are count as done."""
        wanted = list(files)
        groups = [[file] for file in wanted if file.size > SMALL]
        if small := [file for file in wanted if file.size <= SMALL]:
            groups.append(small)
        return [file for group in run_all(self._missing, groups, self.jobs, self.cancel) for file in group]

    def _missing(self, group: list[PlannedFile]) -> list[PlannedFile]:
        task = self.reporter.task(_name(group), sum(file.size for file in group))
        try:
            return [file for file in group if not self._holds(file, task)]
        finally:
            task.done()

    def _holds(self, file: PlannedFile, task: Task) -> bool:
        if self.cancel.is_set():
            raise Cancelled("cancelled")
        count_bytes = unless_cancelled(task.advance, self.cancel)
        return self.destination.holds(file.path, file.size, file.file.sha256, count_bytes)

    def store(self, file: PlannedFile, part: Part) -> None:
        """Check a file that was written to its end, and give it its place; raises IntegrityError."""
        if part.size != file.size or part.sha256 != file.file.sha256:
            self.destination.discard(part)
            raise IntegrityError(
                f"{file.file.path!r} does not match its sha256 in the file index",
                hint="the image is damaged, or was tampered with: carry it anew",
                side="source",
            )
        self.destination.place(part, file.path)


def fetch(
    reader: BlobReader, layers: Mapping[Digest, StoredLayer], files: Iterable[PlannedFile], worker: Worker
) -> int:
    """Fetch files out of the layers of an image; return how many bytes of them an earlier run had left in parts.

    Raises IntegrityError, UnavailableError and what the reader raises. Files that were whole by then stay.
    """
    spans = plan_spans(files, layers)
    needed = sum(file.size - min(file.size, worker.destination.partial(file.key)) for s in spans for file in s.files)
    worker.destination.require(needed)
    return sum(run_all(lambda span: _Reading(reader, layers, worker).read(span), spans, worker.jobs, worker.cancel))


class _Reading:
    """One read, in one thread."""

    def __init__(self, reader: BlobReader, layers: Mapping[Digest, StoredLayer], worker: Worker) -> None:
        self._reader = reader
        self._layers = layers
        self._worker = worker

    def read(self, span: Span) -> int:
        task = self._worker.reporter.task(_name(span.files), span.size)
        try:
            with on_side("source", _name(span.files)):
                if len(span.files) == 1:
                    return self._read_one(span.files[0], task)
                self._read_run(span, task)
        finally:
            task.done()
        return 0

    def _read_one(self, file: PlannedFile, task: Task) -> int:
        """Read a file, going on where an earlier run stopped; from the beginning again if that was no good."""
        with self._worker.destination.part(file.key) as part:
            if self._worker.destination.partial(file.key) > file.size:
                part.restart()
            part.resume(unless_cancelled(task.advance, self._worker.cancel))
            held = part.size
            with self._file(file.file, held) as stream:
                self._copy(stream, file.size - held, part, task)
            if held and part.sha256 != file.file.sha256:
                task.advance(-file.size)
                held = 0
                part.restart()
                with self._file(file.file, 0) as stream:
                    self._copy(stream, file.size, part, task)
            self._worker.store(file, part)
        return held

    def _read_run(self, span: Span, task: Task) -> None:
        """Read files one after the other; small ones are gathered and written many at a time."""
        start = span.extent.offset
        gathered: list[tuple[PlannedFile, bytes]] = []
        room = SMALL
        with closing(self._extent(span.extent)) as chunks:
            stream = ChunkReader(chunks, self._name_of(span.extent.layer))
            for file in span.files:
                stream.skip(file.offset - start - stream.position)
                if file.size > SMALL:
                    with self._worker.destination.part(file.key) as part:
                        part.restart()
                        self._copy(stream, file.size, part, task)
                        self._worker.store(file, part)
                    continue
                gathered.append((file, stream.read(file.size)))
                room -= file.size
                if room <= 0:
                    self._write_small(gathered, task)
                    gathered, room = [], SMALL
        self._write_small(gathered, task)

    def _write_small(self, gathered: Sequence[tuple[PlannedFile, bytes]], task: Task) -> None:
        with self._worker.writing_small:
            for file, data in gathered:
                if self._worker.cancel.is_set():
                    raise Cancelled("cancelled")
                with self._worker.destination.part(file.key) as part:
                    part.restart()
                    part.write(data)
                    self._worker.store(file, part)
                task.advance(file.size)

    def _copy(self, stream: ChunkReader, size: int, part: Part, task: Task) -> None:
        for piece in stream.pieces(size):
            if self._worker.cancel.is_set():
                raise Cancelled("cancelled")
            part.write(piece)
            task.advance(len(piece))

    @contextmanager
    def _file(self, file: IndexedFile, start: int) -> Iterator[ChunkReader]:
        """Read a file from byte `start` on, out of all layers that it lies in."""
        with closing(self._extents(extents(file, start, file.size - start))) as chunks:
            yield ChunkReader(chunks, self._name_of(*file.layers))

    def _extents(self, runs: Iterable[BlobRange]) -> Generator[bytes | memoryview, None, None]:
        for run in runs:
            yield from self._extent(run)

    def _extent(self, extent: BlobRange) -> Generator[bytes | memoryview, None, None]:
        """Yield a run of a layer's tar; a compressed layer is read from its beginning for it."""
        layer, start, size = self._layers[extent.layer], extent.offset, extent.size
        if not size:
            return
        stop = None if layer.compressed else start + size
        with closing(self._reader.read_blob(layer.blob, 0 if layer.compressed else start, stop)) as chunks:
            if not layer.compressed:
                yield from chunks
                return
            what = self._name_of(extent.layer)
            read = counted(chunks, unless_cancelled(lambda _: None, self._worker.cancel))
            stream = ChunkReader(decompressed(read, what), what)
            stream.skip(start)
            yield from stream.pieces(size)

    def _name_of(self, *layers: Digest) -> str:
        blobs = ", ".join(self._layers[layer].blob.digest for layer in layers)
        return f"{self._reader.name}: layer {blobs}"


def _name(files: Sequence[PlannedFile]) -> str:
    """Return what people know the files by: paths in the repo, wherever they are written."""
    return files[0].file.path if len(files) == 1 else f"{len(files)} files, {files[0].file.path} …"
