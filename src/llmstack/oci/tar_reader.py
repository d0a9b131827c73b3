"""Reading a tar as a stream, without copies: names of any length, sizes of any size, nothing kept but one chunk.

The rules are those of Go's archive/tar, which decides what Docker and containerd take: PAX records for one entry count,
global ones do not, links and folders have no data whatever their size says. Sparse entries are refused (image-spec
layer.md does not allow them).
"""

from __future__ import annotations

import contextlib
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

# Long names and extended attributes; nothing honest comes near it.
_MAX_EXTENSION = 1024 * 1024
# What a jumping reader fetches at a time: room for the headers of many small files.
_WINDOW = 128 * 1024
_KINDS: dict[bytes, EntryKind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
}
_WITHOUT_DATA = frozenset(
    {tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
)


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry: its name as it is stored, what it is, its size in bytes, and where a link points."""

    name: str
    kind: EntryKind
    size: int
    target: str


class ChunkReader:
    """A stream of chunks read piece by piece, without copying them; `position` counts the bytes that were read."""

    def __init__(self, chunks: Iterable[bytes | memoryview], what: str) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self.what = what
        self.position = 0

    def pieces(self, size: int, *, required: bool = True) -> Generator[memoryview, None, None]:
        """Yield the next `size` bytes; raises IntegrityError if the stream ends before, unless it may."""
        while size:
            if not self._view and not self._fill():
                if required:
                    raise IntegrityError(f"{self.what} is cut off")
                return
            piece = self._view[:size]
            self._view = self._view[len(piece) :]
            size -= len(piece)
            self.position += len(piece)
            yield piece

    def read(self, size: int, *, required: bool = True) -> bytes:
        """Return the next `size` bytes, fewer at the stream's end if that may be."""
        return b"".join(self.pieces(size, required=required))

    def skip(self, size: int, *, required: bool = True) -> None:
        """Pass over the next `size` bytes."""
        for _ in self.pieces(size, required=required):
            pass

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._view = memoryview(chunk)
                return True
        return False


class TarReader:
    """Iterates over a tar's entries; `content` gives the current one's bytes, what is not read is skipped."""

    def __init__(self, chunks: Iterable[bytes], what: str) -> None:
        self._stream = ChunkReader(chunks, what)
        self._what = what
        self._left = 0

    def __iter__(self) -> Generator[TarEntry, None, None]:
        """Yield the entries up to the end mark or the end of the stream; raises IntegrityError for a broken tar."""
        while (entry := self._next()) is not None:
            padding = -entry.size % BLOCK
            yield entry
            self._stream.skip(self._left)
            self._left = 0
            # Padding that is missing at the very end of a stream is missed by nobody.
            self._stream.skip(padding, required=False)

    @property
    def position(self) -> int:
        """Where in the tar the iteration is: at the first of an entry's bytes when the entry was just yielded."""
        return self._stream.position

    def content(self) -> Generator[memoryview, None, None]:
        """Yield the bytes of the entry that the iteration is at; raises IntegrityError if the tar ends before."""
        for piece in self._stream.pieces(self._left):
            self._left -= len(piece)
            yield piece

    def _next(self) -> TarEntry | None:
        name: str | None = None
        target: str | None = None
        size: int | None = None
        while (info := self._header()) is not None:
            if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
                records = self._records(self._extension(info))
                name, target = records.get("path", name), records.get("linkpath", target)
                size = self._number(records["size"]) if "size" in records else size
            elif info.type == tarfile.XGLTYPE:
                self._extension(info)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(self._extension(info).partition(b"\0")[0])
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                target = _text(self._extension(info).partition(b"\0")[0])
            else:
                return self._entry(info, info.name if name is None else name, target, size)
        return None

    def _entry(self, info: tarfile.TarInfo, name: str, target: str | None, size: int | None) -> TarEntry:
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise IntegrityError(f"{self._what}: {name!r} is a sparse file, which no layer may hold")
        target = info.linkname if target is None else target
        size = info.size if size is None else size
        if info.type in _WITHOUT_DATA:
            size = 0
        if size < 0:
            raise IntegrityError(f"{self._what}: {name!r} has a negative size")
        if "\0" in name or "\0" in target:
            raise IntegrityError(f"{self._what}: {name!r} is not a name that a layer may hold")
        self._left = size
        kind = _KINDS.get(info.type, "other")
        # Before POSIX, a folder was a file whose name ends in a slash.
        return TarEntry(name, "directory" if kind == "file" and name.endswith("/") else kind, size, target)

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(BLOCK, required=False)
        if block.count(0) == len(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise IntegrityError(f"{self._what}: not a sound tar: {error}") from error

    def _extension(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MAX_EXTENSION:
            raise IntegrityError(f"{self._what}: a tar header of {info.size} bytes")
        data = self._stream.read(info.size)
        self._stream.skip(-info.size % BLOCK, required=False)
        return data

    def _records(self, data: bytes) -> dict[str, str]:
        """Read PAX records, each `LENGTH KEY=VALUE\\n` (POSIX.1-2017, pax Extended Header)."""
        records: dict[str, str] = {}
        while data.strip(b"\0"):
            digits, space, _ = data[:21].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = data[len(digits) + 1 : length]
            key, equals, value = record.partition(b"=")
            if not space or not equals or length > len(data) or not record.endswith(b"\n"):
                raise IntegrityError(f"{self._what}: a PAX header is not well formed")
            records[_text(key)] = _text(value[:-1])
            data = data[length:]
        if any(key.startswith("GNU.sparse.") for key in records):
            raise IntegrityError(f"{self._what}: {records.get('path', '')!r} is a sparse file, which no layer may hold")
        return records

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise IntegrityError(f"{self._what}: {text[:40]!r} is not a size")
        return int(text)


class _RangeReader(ChunkReader):
    """A layer as a stream of which nothing is fetched that is skipped."""

    def __init__(self, reader: BlobReader, layer: Descriptor, what: str) -> None:
        super().__init__((), what)
        self._reader = reader
        self._layer = layer

    def skip(self, size: int, *, required: bool = True) -> None:
        """Pass over the next `size` bytes, without fetching those that are not there yet."""
        if size <= len(self._view):
            super().skip(size, required=required)
            return
        if required and self.position + size > self._layer.size:
            raise IntegrityError(f"{self.what} is cut off")
        self._view = memoryview(b"")
        self.position += size

    def _fill(self) -> bool:
        stop = min(self.position + _WINDOW, self._layer.size)
        if self.position >= stop:
            return False
        self._view = memoryview(b"".join(self._reader.read_blob(self._layer, self.position, stop)))
        return True


class RangeTarReader(TarReader):
    """Iterates over an uncompressed layer's tar by ranges: content that is not asked for is not fetched.

    Nothing is verified: neither the layer's digest nor its size.
    """

    def __init__(self, reader: BlobReader, layer: Descriptor) -> None:
        what = f"{reader.name}: layer {layer.digest}"
        super().__init__((), what)
        self._stream = _RangeReader(reader, layer, what)


@contextlib.contextmanager
def open_layer(
    reader: BlobReader, layer: Descriptor, count_bytes: Callable[[int], None] = lambda _: None
) -> Iterator[TarReader]:
    """Read a layer's tar, decompressed where need be; the blob is verified when the context ends.

    `count_bytes` gets the size of each chunk. Raises IntegrityError at the end if the blob does not match its
    digest or size: nothing that was read before may be relied on until then.
    """
    what = f"{reader.name}: layer {layer.digest}"
    with contextlib.closing(reader.read_blob(layer)) as chunks:
        stream = verified(counted(chunks, count_bytes), layer, reader.name)
        yield TarReader(decompressed(stream, what), what)
        for _ in stream:
            pass


def counted(chunks: Iterable[bytes], count_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """Pass chunks on; `count_bytes` hears how long each one is before it goes on."""
    for chunk in chunks:
        count_bytes(len(chunk))
        yield chunk


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
