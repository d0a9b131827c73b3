"""Deterministic tar layers: where each file lies is known before the first byte is.

PAX, mtime 0, owner 0:0 without names, mode 0644, no directory entries, closed by two zero blocks (image-spec layer.md).
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

BLOCK = 512
END = bytes(2 * BLOCK)
GATHER = 256 * 1024


@dataclass(frozen=True, slots=True)
class TarFile:
    """A file to be written into a layer: its path in the layer, and its size in bytes."""

    path: str
    size: int


def header(file: TarFile) -> bytes:
    """Return the blocks before a file's bytes: one for short names, three or more with a PAX extended header."""
    info = tarfile.TarInfo(file.path)
    info.size = file.size
    info.mode = 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def padding(size: int) -> bytes:
    """Return the zeros that fill a file's last block."""
    return bytes(-size % BLOCK)


def offsets(files: Sequence[TarFile]) -> tuple[list[int], int]:
    """Return where each file's bytes begin in the layer, and the layer's size."""
    starts, position = [], 0
    for file in files:
        position += len(header(file))
        starts.append(position)
        position += file.size + len(padding(file.size))
    return starts, position + len(END)


def layer(files: Iterable[TarFile], contents: Iterable[Iterable[bytes]]) -> Generator[bytes, None, None]:
    """Yield a layer's bytes. `contents` gives each file's chunks, exactly its size; what it raises passes through."""
    return _gathered(_pieces(files, contents))


def _pieces(files: Iterable[TarFile], contents: Iterable[Iterable[bytes]]) -> Generator[bytes, None, None]:
    for file, chunks in zip(files, contents, strict=True):
        yield header(file)
        yield from chunks
        yield padding(file.size)
    yield END


def _gathered(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Join small pieces, so that a header or a small file does not cost a packet of its own; pass large ones on."""
    small = bytearray()
    for piece in pieces:
        if len(piece) >= GATHER:
            if small:
                yield bytes(small)
                small.clear()
            yield piece
        else:
            small += piece
            if len(small) >= GATHER:
                yield bytes(small)
                small.clear()
    if small:
        yield bytes(small)
