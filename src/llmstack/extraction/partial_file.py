"""A file that is being written: appended, hashed on the way, and resumed by the next run."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

from llmstack.carried_image.file_index import IndexedFile
from llmstack.oci.store import CHUNK

# The page cache stores a larger write in larger folios. On fragmented memory, Linux compacts memory for those
# (PAGE_ALLOC_COSTLY_ORDER). Measured: twice the time.
_WRITE = 32 * 1024


class PartialFile:
    """A file being written, and hashed if `file` is given. `Destination.publish` gives it its final path."""

    def __init__(self, descriptor: int, name: str, file: IndexedFile | None) -> None:
        self._descriptor = descriptor
        self._file = file
        self._hash = file.new_hash() if file else None
        self.name = name
        self.size = 0

    def resume(self, count_bytes: Callable[[int], None]) -> None:
        """Hash what an earlier run wrote and continue after it. `count_bytes` gets the size of each chunk."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        for chunk in read_chunks(self._descriptor):
            self._count(chunk)
            count_bytes(len(chunk))

    def restart(self) -> None:
        """Drop all bytes."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.size, self._hash = 0, self._file.new_hash() if self._file else None

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes."""
        self._count(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left[:_WRITE]) :]

    def mismatch(self) -> str | None:
        """Return what the bytes do not match in the file index: "size", "sha256" or "oid". None if they match."""
        if self._file is None or self._hash is None:
            return None
        return "size" if self.size != self._file.size else self._file.mismatch(self._hash)

    def _count(self, data: memoryview | bytes) -> None:
        self.size += len(data)
        if self._hash:
            self._hash.update(data)


def read_chunks(descriptor: int) -> Generator[bytes, None, None]:
    """Yield the bytes of an open file from its current position to its end."""
    while chunk := os.read(descriptor, CHUNK):
        yield chunk
