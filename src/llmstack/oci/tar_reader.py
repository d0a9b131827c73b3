"""Reads tars as streams: no copies, no temporary files, one chunk in memory.

Follows Go's archive/tar, which Docker and containerd use: PAX records of an entry apply, global ones do not; links and
directories have no data, whatever their size field says. Sparse files are refused (image-spec layer.md).
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from llmstack.errors import IntegrityError
from llmstack.oci.compression import decompressed
from llmstack.oci.spec import Descriptor
from llmstack.oci.store import BlobReader, verified
from llmstack.oci.tar_writer import BLOCK

EntryKind = Literal["file", "directory", "symlink", "hardlink", "other"]

# PATH_MAX of Linux, in bytes.
MAX_NAME = 4096
MAX_DEPTH = 256
# As Go's archive/tar: for long names and extended attributes.
_MAX_EXTENSION = 1024 * 1024
# Compressed layers may expand to these many entries, and to extended headers of these many bytes.
_MAX_ENTRIES = 100_000
_BYTES_PER_ENTRY = 32
_MAX_EXTENSIONS = 4 * 1024 * 1024
_EXTENSIONS_PER_BYTE = 64
_MAX_SIZE = 2**63
# Bytes per range: the headers of many small files.
_WINDOW = 128 * 1024
_RECORD = re.compile(rb"([0-9]{1,20}) ([^=]+)=", re.DOTALL)
_KINDS: dict[bytes, EntryKind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
}
_PAX_KEYS = frozenset({b"path", b"linkpath", b"size"})
_WITHOUT_DATA = frozenset(
    {tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
)


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry: its name as stored, its kind, its size in bytes, the target of a link."""

    name: str
    kind: EntryKind
    size: int
    target: str

    @property
    def path(self) -> str:
        """The path in the image; raises IntegrityError for names that lead out of it."""
        return clean_path(self.name)


def clean_path(name: str) -> str:
    """Return a name as a path relative to the image's root, as Docker does; raises IntegrityError.

    `/usr/bin`, `./usr/bin` and `usr//bin/` are the same path.
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise IntegrityError(f"entry {name[:200]!r}: names with .. are not allowed in an image")
    if len(parts) > MAX_DEPTH:
        raise IntegrityError(f"entry {name[:200]!r}: {len(parts)} directories deep, the limit is {MAX_DEPTH}")
    return "/".join(parts)


class ChunkReader:
    """Reads a stream of chunks without copying them; `position` is the number of bytes read."""

    def __init__(self, chunks: Iterable[bytes | memoryview], what: str) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self.what = what
        self.position = 0

    def pieces(self, size: int, *, required: bool = True) -> Generator[memoryview, None, None]:
        """Yield the next `size` bytes; raises IntegrityError if the stream ends before, unless not `required`."""
        while size:
            if not self._view and not self._fill():
                if required:
                    raise IntegrityError(f"{self.what}: truncated")
                return
            piece = self._view[:size]
            self._view = self._view[len(piece) :]
            size -= len(piece)
            self.position += len(piece)
            yield piece

    def read(self, size: int, *, required: bool = True) -> bytes:
        """Return the next `size` bytes; fewer at the end of the stream if not `required`."""
        return b"".join(self.pieces(size, required=required))

    def skip(self, size: int, *, required: bool = True) -> None:
        """Skip the next `size` bytes."""
        for _ in self.pieces(size, required=required):
            pass

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._view = memoryview(chunk)
                return True
        return False


class TarReader:
    """Iterates over the entries of a tar; `content` yields the bytes of the current one.

    `stored` is the size of the tar as it was sent, compressed: more entries and extended headers than it can honestly
    hold raise IntegrityError.
    """

    def __init__(self, chunks: Iterable[bytes], what: str, stored: int | None = None) -> None:
        self._stream = ChunkReader(chunks, what)
        self._what = what
        self._left = 0
        self._entries_left = None if stored is None else _MAX_ENTRIES + stored // _BYTES_PER_ENTRY
        self._extensions_left = None if stored is None else _MAX_EXTENSIONS + stored * _EXTENSIONS_PER_BYTE

    def __iter__(self) -> Generator[TarEntry, None, None]:
        """Yield the entries; raises IntegrityError if the tar is damaged, or expands to too many of them."""
        while (entry := self._next()) is not None:
            padding = -entry.size % BLOCK
            yield entry
            self._stream.skip(self._left)
            self._left = 0
            # Some tools leave out the padding at the end of the stream.
            self._stream.skip(padding, required=False)

    @property
    def position(self) -> int:
        """The position in the tar; when an entry was yielded, that of its first byte."""
        return self._stream.position

    def content(self) -> Generator[memoryview, None, None]:
        """Yield the bytes of the current entry; raises IntegrityError if the tar is truncated."""
        for piece in self._stream.pieces(self._left):
            self._left -= len(piece)
            yield piece

    def _next(self) -> TarEntry | None:
        name: str | None = None
        target: str | None = None
        size: int | None = None
        sparse = False
        while (info := self._header()) is not None:
            if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
                records = self._records(self._extension(info))
                name = records.get(b"GNU.sparse.name") or records.get(b"path") or name
                target = records.get(b"linkpath") or target
                size = self._number(records[b"size"]) if b"size" in records else size
                sparse = sparse or any(key.startswith(b"GNU.sparse.") for key in records)
            elif info.type == tarfile.XGLTYPE:
                self._extension(info)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = _decode(self._extension(info).partition(b"\0")[0])
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                target = _decode(self._extension(info).partition(b"\0")[0])
            else:
                name = info.name if name is None else name
                if sparse or info.type == tarfile.GNUTYPE_SPARSE:
                    raise IntegrityError(f"{self._what}: {name[:200]!r}: sparse files are not allowed in a layer")
                return self._entry(info, name, info.linkname if target is None else target, size)
        return None

    def _entry(self, info: tarfile.TarInfo, name: str, target: str, size: int | None) -> TarEntry:
        size = info.size if size is None else size
        if info.type in _WITHOUT_DATA:
            size = 0
        if not 0 <= size < _MAX_SIZE:
            raise IntegrityError(f"{self._what}: {name[:200]!r}: invalid size {size}")
        for path in (name, target):
            length = len(path.encode("utf-8", "surrogateescape"))
            if length > MAX_NAME:
                raise IntegrityError(f"{self._what}: {path[:200]!r}…: {length} bytes long, the limit is {MAX_NAME}")
            if "\0" in path:
                raise IntegrityError(f"{self._what}: {path[:200]!r}: NUL bytes are not allowed in names")
        if self._entries_left is not None:
            self._entries_left -= 1
            if self._entries_left < 0:
                raise self._expands(f"{_MAX_ENTRIES:,} entries and one per {_BYTES_PER_ENTRY} bytes")
        self._left = size
        kind = _KINDS.get(info.type, "other")
        # Before POSIX, a directory was a file with a slash at the end of its name.
        return TarEntry(name, "directory" if kind == "file" and name.endswith("/") else kind, size, target)

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(BLOCK, required=False)
        if block.count(0) == len(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise IntegrityError(f"{self._what}: not a valid tar: {error}") from error

    def _extension(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MAX_EXTENSION:
            raise IntegrityError(
                f"{self._what}: extended header of {info.size} bytes, the limit is {_MAX_EXTENSION} bytes"
            )
        if self._extensions_left is not None:
            self._extensions_left -= info.size + BLOCK
            if self._extensions_left < 0:
                raise self._expands(f"{_MAX_EXTENSIONS:,} bytes of headers and {_EXTENSIONS_PER_BYTE} per byte")
        data = self._stream.read(info.size)
        self._stream.skip(-info.size % BLOCK, required=False)
        return data

    def _records(self, data: bytes) -> dict[bytes, str]:
        """Parse PAX records, each `LENGTH KEY=VALUE\\n` (POSIX.1-2017, pax Extended Header); return those in use."""
        records: dict[bytes, str] = {}
        start, end = 0, len(data.rstrip(b"\0"))
        while start < end:
            match = _RECORD.match(data, start)
            stop = start + int(match[1]) if match else end + 1
            if match is None or not match.end() < stop <= end or data[stop - 1] != ord("\n"):
                raise IntegrityError(f"{self._what}: malformed PAX header")
            if match[2] in _PAX_KEYS or match[2].startswith(b"GNU.sparse."):
                records[match[2]] = _decode(data[match.end() : stop - 1])
            start = stop
        return records

    def _number(self, digits: str) -> int:
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            raise IntegrityError(f"{self._what}: invalid size {digits[:40]!r}")
        return int(digits)

    def _expands(self, limit: str) -> IntegrityError:
        return IntegrityError(f"{self._what}: expands to more than {limit} of the layer")


class _RangeReader(ChunkReader):
    """Reads a stream by ranges; skipped bytes are not read."""

    def __init__(self, read_range: Callable[[int, int], Iterable[bytes]], size: int, what: str) -> None:
        super().__init__((), what)
        self._read_range = read_range
        self._size = size

    def skip(self, size: int, *, required: bool = True) -> None:
        """Skip the next `size` bytes without reading them."""
        if size <= len(self._view):
            super().skip(size, required=required)
            return
        if required and self.position + size > self._size:
            raise IntegrityError(f"{self.what}: truncated")
        self._view = memoryview(b"")
        self.position += size

    def _fill(self) -> bool:
        stop = min(self.position + _WINDOW, self._size)
        if self.position < stop:
            self._view = memoryview(b"".join(self._read_range(self.position, stop)))
        return bool(self._view)


class RangeTarReader(TarReader):
    """Iterates over an uncompressed tar by ranges; content that is not read is skipped. Verifies no digest."""

    def __init__(self, read_range: Callable[[int, int], Iterable[bytes]], size: int, what: str) -> None:
        super().__init__((), what)
        self._stream = _RangeReader(read_range, size, what)


def layer_by_ranges(reader: BlobReader, layer: Descriptor) -> RangeTarReader:
    """Read the tar of an uncompressed layer by range requests, without verifying it."""
    return RangeTarReader(
        lambda start, stop: reader.read_blob(layer, start, stop), layer.size, f"{reader.name}: layer {layer.digest}"
    )


@contextlib.contextmanager
def open_layer(
    reader: BlobReader, layer: Descriptor, count_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[TarReader]:
    """Read the tar of a layer, decompressed; verify the blob when the context ends.

    Calls `count_bytes` with the size of each chunk. Raises IntegrityError at the end if the blob does not match its
    digest or size: do not rely on anything that was read before.
    """
    what = f"{reader.name}: layer {layer.digest}"
    with contextlib.closing(reader.read_blob(layer)) as chunks:
        stream = verified(counted(chunks, count_bytes), layer, reader.name)
        yield TarReader(decompressed(stream, what), what, layer.size)
        for _ in stream:
            pass


def counted(chunks: Iterable[bytes], count_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """Pass chunks on; call `count_bytes` with the size of each before."""
    for chunk in chunks:
        count_bytes(len(chunk))
        yield chunk


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
