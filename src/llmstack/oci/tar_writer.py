"""Writes deterministic tar layers, in which the offset of each file is known before it is read.

PAX format, mtime 0, owner 0:0 without names, mode 0644, no directory entries, two zero blocks at the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

BLOCK = 512
END = bytes(2 * BLOCK)
_MIN_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class TarFile:
    """A file of a layer: its path, and its size in bytes."""

    path: str
    size: int


def header(file: TarFile) -> bytes:
    """Return the header of a file: one block, or three and more with a PAX extended header."""
    info = tarfile.TarInfo(file.path)
    info.size = file.size
    info.mode = 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of a file."""
    return bytes(-size % BLOCK)


def offsets(files: Sequence[TarFile]) -> tuple[list[int], int]:
    """Return the offsets of the files' bytes in the layer, and the size of the layer."""
    starts, position = [], 0
    for file in files:
        position += len(header(file))
        starts.append(position)
        position += file.size + len(padding(file.size))
    return starts, position + len(END)


def layer(files: Iterable[TarFile], contents: Iterable[Iterable[bytes]]) -> Generator[bytes, None, None]:
    """Yield the bytes of a layer. `contents` yields the chunks of each file; its exceptions pass through."""
    return _joined(_pieces(files, contents))


def _pieces(files: Iterable[TarFile], contents: Iterable[Iterable[bytes]]) -> Generator[bytes, None, None]:
    for file, chunks in zip(files, contents, strict=True):
        yield header(file)
        yield from chunks
        yield padding(file.size)
    yield END


def _joined(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Join small pieces to chunks, so that a small file does not take a packet for itself; pass large ones on."""
    small = bytearray()
    for piece in pieces:
        if len(piece) >= _MIN_CHUNK:
            if small:
                yield bytes(small)
                small.clear()
            yield piece
        else:
            small += piece
            if len(small) >= _MIN_CHUNK:
                yield bytes(small)
                small.clear()
    if small:
        yield bytes(small)
