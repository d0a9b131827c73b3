"""A layer's bytes on their way: from the hub, through the hashes, into a tar."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice

from llmstack.ferry.plan import PlannedLayer
from llmstack.hub.snapshot import HubFile
from llmstack.oci import tar
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
        return tar.layer(self._layer.tar_files, (self._counted(chunks) for chunks in contents))

    def _counted(self, chunks: Chunks) -> Chunks:
        for chunk in chunks:
            self._passed += len(chunk)
            self._task.advance(len(chunk))
            yield chunk


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
        yield first
        yield from chunks

    return rest()
