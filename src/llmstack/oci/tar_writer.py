"""Writes deterministic tar layers, in which the offset of each file is known before it is read.

PAX format, mtime 0, owner 0:0 without names, mode 0644 (directories 0755), two zero blocks at the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

BLOCK = 512
END = bytes(2 * BLOCK)
_MIN_CHUNK = 256 * 1024
# The largest size that the octal digits of a ustar header can express, plus one.
OCTAL_LIMIT = 8**11
# Fields of a ustar header (POSIX.1-2017, pax).
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True, slots=True)
class TarFile:
    """A file of a layer: its path, its size in bytes, and the paths of hard links to it, which follow it in the tar."""

    path: str
    size: int
    links: tuple[str, ...] = ()


def header(file: TarFile) -> bytes:
    """Return the header of a file: one block, or three and more with a PAX extended header."""
    info = _info(file.path)
    info.size = file.size
    data = _to_bytes(info)
    if file.size < OCTAL_LIMIT:
        return data
    # tarfile writes such a size into the PAX header only. Clair and Quay read the ustar header only. It can hold the
    # size in base 256, as GNU tar writes it.
    block = bytearray(data[-BLOCK:])
    block[_SIZE] = b"\x80" + file.size.to_bytes(11)
    block[_CHECKSUM] = b"%06o\0 " % (sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "))
    return data[:-BLOCK] + bytes(block)


def directory(path: str) -> bytes:
    """Return the entry of a directory."""
    info = _info(path + "/")
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return _to_bytes(info)


def trailer(file: TarFile) -> bytes:
    """Return what follows the bytes of a file: padding, and the entries of its hard links."""
    return padding(file.size) + b"".join(_hard_link(path, file.path) for path in file.links)


def _hard_link(path: str, target: str) -> bytes:
    info = _info(path)
    info.type, info.linkname = tarfile.LNKTYPE, target
    return _to_bytes(info)


def _info(path: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mode = 0o644
    return info


def _to_bytes(info: tarfile.TarInfo) -> bytes:
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
        position += file.size + len(trailer(file))
    return starts, position + len(END)


def layer(
    files: Iterable[TarFile], contents: Iterable[Iterable[bytes]], directories: Iterable[str] = ()
) -> Generator[bytes, None, None]:
    """Yield the bytes of a layer: first `directories`, then the files.

    `contents` yields the chunks of each file; its exceptions pass through.
    """
    return _joined(_pieces(files, contents, directories))


def _pieces(
    files: Iterable[TarFile], contents: Iterable[Iterable[bytes]], directories: Iterable[str]
) -> Generator[bytes, None, None]:
    yield from map(directory, directories)
    for file, chunks in zip(files, contents, strict=True):
        yield header(file)
        yield from chunks
        yield trailer(file)
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
