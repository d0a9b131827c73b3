"""Fetching files whose place and hash a file index tells: ranges of layers, in parallel, each file verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Lock

from llmstack.carried.image import StoredLayer
from llmstack.carried.parallel import run_all
from llmstack.errors import IntegrityError, on_side
from llmstack.extract.destination import Destination, Part
from llmstack.extract.plan import PlannedFile, Span, plan_spans
from llmstack.net import Cancelled
from llmstack.oci.compression import decompressed
from llmstack.oci.store import BlobReader
from llmstack.oci.untar import ChunkReader
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
        return self.destination.holds(file.path, file.size, file.sha256, task.advance)

    def store(self, file: PlannedFile, part: Part) -> None:
        """Check a file that was written to its end, and give it its place; raises IntegrityError."""
        if part.size != file.size or part.sha256 != file.sha256:
            self.destination.discard(part)
            raise IntegrityError(
                f"{file.name!r} does not match its sha256 in the file index",
                hint="the image is damaged, or was tampered with: carry it anew",
                side="source",
            )
        self.destination.place(part, file.path)


def fetch(reader: BlobReader, files: Iterable[PlannedFile], worker: Worker) -> int:
    """Fetch files from an image; return how many bytes of them an earlier run had left in parts.

    Raises IntegrityError, UnavailableError and what the reader raises. Files that were whole by then stay.
    """
    spans = plan_spans(files)
    needed = sum(file.size - min(file.size, worker.destination.partial(file.key)) for s in spans for file in s.files)
    worker.destination.require(needed)
    return sum(run_all(lambda span: _Reading(reader, worker).read(span), spans, worker.jobs, worker.cancel))


class _Reading:
    """One read, in one thread."""

    def __init__(self, reader: BlobReader, worker: Worker) -> None:
        self._reader = reader
        self._worker = worker

    def read(self, span: Span) -> int:
        task = self._worker.reporter.task(_name(span.files), span.size)
        try:
            with on_side("source", _name(span.files)):
                if len(span.files) == 1 and not span.layer.compressed:
                    return self._read_one(span.layer, span.files[0], task)
                self._read_run(span.layer, span.files, task)
        finally:
            task.done()
        return 0

    def _read_one(self, layer: StoredLayer, file: PlannedFile, task: Task) -> int:
        """Read a file, going on where an earlier run stopped; from the beginning again if that was no good."""
        with self._worker.destination.part(file.key) as part:
            part.resume()
            if part.size > file.size:
                part.restart()
            held = part.size
            task.advance(held)
            self._copy(self._stream(layer, file.offset + held, file.end), file.size - held, part, task)
            if held and part.sha256 != file.sha256:
                task.advance(-file.size)
                held = 0
                part.restart()
                self._copy(self._stream(layer, file.offset, file.end), file.size, part, task)
            self._worker.store(file, part)
        return held

    def _read_run(self, layer: StoredLayer, files: Sequence[PlannedFile], task: Task) -> None:
        """Read files one after the other; small ones are gathered and written many at a time."""
        position = 0 if layer.compressed else files[0].offset
        stream = self._stream(layer, position, files[-1].end)
        gathered: list[tuple[PlannedFile, bytes]] = []
        room = SMALL
        for file in files:
            stream.skip(file.offset - position)
            position = file.end
            if file.size > SMALL:
                with self._worker.destination.part(file.key) as part:
                    part.restart()
                    self._copy(stream, file.size, part, task)
                    self._worker.store(file, part)
                continue
            gathered.append((file, stream.take(file.size)))
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

    def _stream(self, layer: StoredLayer, start: int, stop: int) -> ChunkReader:
        """Read a layer's tar from `start` to `stop`; of a compressed one, from 0."""
        what = f"{self._reader.name}: layer {layer.blob.digest}"
        return ChunkReader(self._chunks(layer, start, stop, what), what)

    def _chunks(self, layer: StoredLayer, start: int, stop: int, what: str) -> Iterator[bytes]:
        if start == stop:
            return
        with closing(self._reader.read_blob(layer.blob, *(() if layer.compressed else (start, stop)))) as chunks:
            yield from decompressed(chunks, what) if layer.compressed else chunks


def _name(files: Sequence[PlannedFile]) -> str:
    """Return what people know the files by: paths in the repo, wherever they are written."""
    return files[0].name if len(files) == 1 else f"{len(files)} files, {files[0].name} …"
