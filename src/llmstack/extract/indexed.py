"""Fetching files whose place and hash a file index tells: ranges of layers, in parallel, each file verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from llmstack.carried.image import StoredLayer
from llmstack.carried.parallel import run_all
from llmstack.errors import IntegrityError, LlmstackError
from llmstack.extract.destination import Destination, Part
from llmstack.extract.plan import PlannedFile, Span, plan_spans
from llmstack.net import Cancelled
from llmstack.oci.compression import decompressed
from llmstack.oci.store import BlobReader
from llmstack.oci.untar import ChunkReader
from llmstack.reporting import Reporter, Task


@dataclass(frozen=True, slots=True)
class Worker:
    """What all reads of one run share."""

    destination: Destination
    reporter: Reporter
    cancel: Event
    jobs: int

    def missing(self, files: Iterable[PlannedFile]) -> list[PlannedFile]:
        """Return the files that are not there whole; those that are count as done."""
        wanted = list(files)

        def held(file: PlannedFile) -> bool:
            if self.cancel.is_set():
                raise Cancelled("cancelled")
            task = self.reporter.task(file.path, file.size)
            try:
                return self.destination.holds(file.path, file.size, file.sha256, task.advance)
            finally:
                task.done()

        there = run_all(held, wanted, self.jobs, self.cancel)
        return [file for file, whole in zip(wanted, there, strict=True) if not whole]

    def store(self, file: PlannedFile, part: Part) -> None:
        """Check a file that was written to its end, and give it its place; raises IntegrityError."""
        if part.size != file.size or part.sha256 != file.sha256:
            self.destination.discard(part)
            raise IntegrityError(
                f"{file.path!r} does not match its sha256 in the file index",
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
        name = span.files[0].path if len(span.files) == 1 else f"{len(span.files)} files, {span.files[0].path} …"
        task = self._worker.reporter.task(name, span.size)
        try:
            if len(span.files) == 1 and not span.layer.compressed:
                return self._read_one(span.layer, span.files[0], task)
            self._read_run(span.layer, span.files, task)
        except LlmstackError as error:
            error.side = error.side or "source"
            raise
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

    def _read_run(self, layer: StoredLayer, files: Iterable[PlannedFile], task: Task) -> None:
        files = tuple(files)
        position = 0 if layer.compressed else files[0].offset
        stream = self._stream(layer, position, files[-1].end)
        for file in files:
            stream.skip(file.offset - position)
            with self._worker.destination.part(file.key) as part:
                part.restart()
                self._copy(stream, file.size, part, task)
                self._worker.store(file, part)
            position = file.end

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
