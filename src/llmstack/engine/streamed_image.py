"""Read an image in the Docker Engine as `docker save` streams it: layers with their digests, without a copy on a disk.

The engine sends its files in a fixed order and cannot go back. The first stream only lists and hashes them; after that,
whoever reads blobs in the order of their offsets needs one more stream.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import cached_property
from pathlib import Path

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import IntegrityError
from llmstack.oci.archive import DockerArchive, Member, TarArchive
from llmstack.oci.compression import HEAD
from llmstack.oci.graph import ImageGraph
from llmstack.oci.reference import Digest
from llmstack.oci.tar_reader import TarReader

# JSON of the archive, and the first bytes of each layer, are kept from the first stream.
_SMALL = 256 * 1024
_CHUNK = 1024 * 1024


class StreamedImage(DockerArchive):
    """An image in the engine; implements BlobReader. Read blobs one after the other."""

    def __init__(self, image: str) -> None:
        self._saved = _StreamedTar(image)
        super().__init__(self._saved)

    def in_order(self, graph: ImageGraph) -> ImageGraph:
        """Return a graph with its blobs in the order in which the engine sends them."""
        blobs = sorted(graph.blobs, key=lambda blob: self.offset(Digest(blob.digest)))
        return ImageGraph(graph.manifests, tuple(blobs))

    def close(self) -> None:
        """End the transfer from the engine."""
        self._saved.close()


class _StreamedTar(TarArchive):
    """The files in the output of `docker save`."""

    def __init__(self, image: str) -> None:
        super().__init__(Path(image), f"docker-daemon:{image}")
        self._image = image
        self._heads: dict[int, bytes] = {}
        self._stream: _Stream | None = None
        self._lock = threading.Lock()

    @cached_property
    def members(self) -> dict[str, Member]:
        """The regular files by path; see TarArchive."""
        stream = _Stream(self._image)
        try:
            return self.list_members(TarReader(stream.chunks(), self.name), self._keep_head)
        finally:
            stream.close()

    def read(self, member: Member, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a file; see TarArchive."""
        stop = member.size if stop is None else min(stop, member.size)
        head = self._heads.get(member.offset, b"")
        if stop <= len(head):
            yield head[start:stop]
            return
        with self._lock:
            if self._stream is None or self._stream.position > member.offset + start:
                self.close()
                self._stream = _Stream(self._image)
            yield from self._stream.take(member.offset + start, stop - start)

    def close(self) -> None:
        """End the transfer from the engine."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _keep_head(self, tar: TarReader, member: Member) -> None:
        limit, head = (_SMALL if member.size <= _SMALL else HEAD), b""
        for chunk in tar.content():
            head += chunk[: limit - len(head)]
            if len(head) == limit:
                break
        self._heads[member.offset] = head


class _Stream:
    """One output of `docker save`, read from its start to its end."""

    def __init__(self, image: str) -> None:
        self.position = 0
        self._image = image
        self._rest = b""
        self._chunks = self._open()

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield everything."""
        yield from self._chunks

    def take(self, start: int, count: int) -> Generator[bytes, None, None]:
        """Skip to `start`, and yield the next `count` bytes."""
        for _ in self._next(start - self.position):
            pass
        yield from self._next(count)

    def close(self) -> None:
        """End the transfer."""
        self._chunks.close()

    def _next(self, count: int) -> Generator[bytes, None, None]:
        while count:
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                raise IntegrityError(f"docker-daemon:{self._image}: the engine's answer is truncated")
            taken, self._rest = chunk[:count], chunk[count:]
            count -= len(taken)
            self.position += len(taken)
            yield taken

    def _open(self) -> Generator[bytes, None, None]:
        with Engine() as engine, engine_errors(f"reading the image {self._image}"), engine.no_timeout():
            engine.inspect(self._image)
            chunks = engine.client.api.get_image(self._image, chunk_size=_CHUNK)
            yield from chunks
