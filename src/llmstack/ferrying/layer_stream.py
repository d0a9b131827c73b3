"""A layer's bytes on their way: from the hub, through the hashes, into a tar."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice

from llmstack.ferrying.layer_plan import PlannedLayer
from llmstack.hf.snapshot import FileHash, HubFile
from llmstack.oci import tar_writer
from llmstack.reporting import Task

Chunks = Generator[bytes, None, None]
ReadFile = Callable[[HubFile], Chunks]

# How many files of a bundle are asked for before their turn: hides the hub's latency for small files.
AHEAD = 8


class LayerStream:
    """Makes a layer's bytes, as often as an upload has to start over; tells `task` what has passed."""

    def __init__(self, layer: PlannedLayer, read: ReadFile, ahead: Executor, task: Task) -> None:
        self._layer = layer
        self._read = read
        self._ahead = ahead
        self._task = task
        self._passed = 0

    def __call__(self) -> Chunks:
        """Yield the layer from its beginning; raises what reading a file raises."""
        self._task.advance(-self._passed)
        self._passed = 0
        files = self._layer.files
        contents = map(self._read, files) if self._layer.is_single else _opened_ahead(files, self._read, self._ahead)
        return tar_writer.layer(self._layer.tar_files, (self._counted(chunks) for chunks in contents))

    def _counted(self, chunks: Chunks) -> Chunks:
        with contextlib.closing(chunks):
            for chunk in chunks:
                self._passed += len(chunk)
                self._task.advance(len(chunk))
                yield chunk


class PartStream:
    """Makes the layer of one part of a file, as often as an upload has to start over.

    `before` has hashed what comes before the part; when the stream has ended, `seen` has hashed the part as well.
    """

    def __init__(
        self, part: tar_writer.TarFile, read: Callable[[], Chunks], before: FileHash, task: Task, *, is_last: bool
    ) -> None:
        self._part = part
        self._read = read
        self._before = before
        self._task = task
        self._is_last = is_last
        self._passed = 0
        self.seen = before

    def __call__(self) -> Chunks:
        """Yield the layer from its beginning.

        Raises what reading raises, and IntegrityError at the end of the last part if the file is not the hub's.
        """
        self._task.advance(-self._passed)
        self._passed = 0
        return tar_writer.layer([self._part], [self._hashed()])

    def _hashed(self) -> Chunks:
        seen = self._before.copy()
        with contextlib.closing(self._read()) as chunks:
            for chunk in chunks:
                seen.update(chunk)
                self._passed += len(chunk)
                self._task.advance(len(chunk))
                yield chunk
        if self._is_last:
            seen.check()
        self.seen = seen


def _opened_ahead(files: Sequence[HubFile], read: ReadFile, executor: Executor) -> Iterator[Chunks]:
    """Yield each file's chunks in turn, the first chunk of the next few already on its way.

    Holds at most AHEAD chunks.
    """
    left = iter(files)
    waiting: deque[Future[Chunks]] = deque(executor.submit(_started, read(file)) for file in islice(left, AHEAD))
    try:
        while waiting:
            chunks = waiting.popleft().result()
            waiting.extend(executor.submit(_started, read(file)) for file in islice(left, 1))
            yield chunks
    finally:
        for future in waiting:
            future.cancel()
        for future in waiting:
            if not future.cancelled():
                with contextlib.suppress(Exception):
                    future.result().close()


def _started(chunks: Chunks) -> Chunks:
    first = next(chunks, b"")

    def rest() -> Chunks:
        with contextlib.closing(chunks):
            yield first
            yield from chunks

    return rest()
