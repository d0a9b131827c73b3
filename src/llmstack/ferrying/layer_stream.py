"""Build the bytes of a layer while its files are read: files from the source, in a tar."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future

from llmstack.ferrying.layer_plan import PlannedLayer
from llmstack.hf.file_hash import FileHash
from llmstack.hf.snapshot import HubFile
from llmstack.net.ranged_object import CHUNK
from llmstack.oci import tar_writer
from llmstack.reporting import Task

Chunks = Generator[bytes, None, None]
ReadFile = Callable[[HubFile], Chunks]

# Files of a bundle requested in advance: their number hides the Hub's round trip for small files. The first chunk of
# each is in memory.
READ_AHEAD = 48
_BYTES_AHEAD = 8 * CHUNK
# Seconds, and the share of the time.
_WORTH_MENTIONING = 5.0
_MOST = 0.7


class TransferTime:
    """The seconds that uploads waited for their source, and for their destination; safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.source = 0.0
        self.destination = 0.0

    def measure(self, chunks: Chunks) -> Chunks:
        """Pass chunks on and measure who waits for whom."""
        source = destination = 0.0
        began = time.monotonic()
        try:
            with contextlib.closing(chunks):
                for chunk in chunks:
                    read = time.monotonic()
                    yield chunk
                    source += read - began
                    began = time.monotonic()
                    destination += began - read
        finally:
            with self._lock:
                self.source += source
                self.destination += destination

    @property
    def is_limited_by_destination(self) -> bool:
        """Whether the uploads waited for their destination most of the time, and long enough to mention it."""
        return self.destination > max(_WORTH_MENTIONING, _MOST * (self.source + self.destination))


class LayerStream:
    """Builds a layer, again from the start whenever an upload restarts; counts its bytes in `task`."""

    def __init__(self, layer: PlannedLayer, read: ReadFile, read_ahead: Executor, task: Task) -> None:
        self._layer = layer
        self._read = read
        self._read_ahead = read_ahead
        self._task = task
        self._counted = 0

    def __call__(self) -> Chunks:
        """Yield the layer; raises the errors of reading a file."""
        self._task.advance(-self._counted)
        self._counted = 0
        files = self._layer.files
        if self._layer.is_single:
            contents: Iterator[Chunks] = map(self._read, files)
        else:
            contents = _open_ahead(files, self._read, self._read_ahead)
        return tar_writer.layer(self._layer.tar_files, (self._count(chunks) for chunks in contents))

    def _count(self, chunks: Chunks) -> Chunks:
        with contextlib.closing(chunks):
            for chunk in chunks:
                self._counted += len(chunk)
                self._task.advance(len(chunk))
                yield chunk


class PartStream:
    """Builds the layer of one part of a split file, again from the start whenever an upload restarts.

    `hash_before` covers the file up to this part; after the stream has ended, `hash_after` includes the part. `check`
    is called with it at the end of the last part, and raises if the hash is wrong.
    """

    def __init__(
        self,
        part: tar_writer.TarFile,
        read: Callable[[], Chunks],
        hash_before: FileHash,
        task: Task,
        check: Callable[[FileHash], None] | None,
    ) -> None:
        self._part = part
        self._read = read
        self._hash_before = hash_before
        self._task = task
        self._check = check
        self._counted = 0
        self.hash_after = hash_before

    def __call__(self) -> Chunks:
        """Yield the layer; raises the errors of reading and of `check`."""
        self._task.advance(-self._counted)
        self._counted = 0
        return tar_writer.layer([self._part], [self._hash()])

    def _hash(self) -> Chunks:
        file_hash = self._hash_before.copy()
        with contextlib.closing(self._read()) as chunks:
            for chunk in chunks:
                file_hash.update(chunk)
                self._counted += len(chunk)
                self._task.advance(len(chunk))
                yield chunk
        if self._check:
            self._check(file_hash)
        self.hash_after = file_hash


def _open_ahead(files: Sequence[HubFile], read: ReadFile, executor: Executor) -> Iterator[Chunks]:
    """Yield each file's chunks in order, with the first chunk of the next files already requested."""
    remaining = deque(files)
    opened: deque[tuple[HubFile, Future[Chunks]]] = deque()
    ahead = 0
    try:
        while remaining or opened:
            while remaining and len(opened) < READ_AHEAD and ahead < _BYTES_AHEAD:
                file = remaining.popleft()
                opened.append((file, executor.submit(_read_first, read(file))))
                ahead += min(file.size, CHUNK)
            file, first = opened.popleft()
            ahead -= min(file.size, CHUNK)
            yield first.result()
    finally:
        futures = [future for _, future in opened]
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                with contextlib.suppress(Exception):
                    future.result().close()


def _read_first(chunks: Chunks) -> Chunks:
    """Read the first chunk now, and return a generator of all chunks."""
    first = next(chunks, b"")

    def rest() -> Chunks:
        with contextlib.closing(chunks):
            yield first
            yield from chunks

    return rest()
