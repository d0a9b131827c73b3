"""Reading a tar as a stream, without copies: names of any length, sizes of any size, nothing kept but one chunk.

The rules are those of Go's archive/tar, which decides what Docker and containerd take: PAX records for one entry count,
global ones do not, links and folders have no data whatever their size says. Sparse entries are refused (image-spec
layer.md does not allow them).
"""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Literal

from llmstack.errors import IntegrityError
from llmstack.oci.tar import BLOCK

EntryKind = Literal["file", "folder", "symlink", "hardlink", "other"]

# Long names and extended attributes; nothing honest comes near it.
_MAX_EXTENSION = 1024 * 1024
_KINDS: dict[bytes, EntryKind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "folder",
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


class TarReader:
    """Iterates over a tar's entries; `content` gives the current one's bytes, what is not read is skipped."""

    def __init__(self, chunks: Iterable[bytes], what: str) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self._what = what
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Generator[TarEntry, None, None]:
        """Yield the entries up to the end mark or the end of the stream; raises IntegrityError for a broken tar."""
        while True:
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
                    break
            if info is None:
                return
            yield self._entry(
                info, info.name if name is None else name, info.linkname if target is None else target, size
            )
            self._skip()

    def content(self) -> Generator[memoryview, None, None]:
        """Yield the bytes of the entry that the iteration is at; raises IntegrityError if the tar ends before."""
        while self._left:
            if not self._view and not self._fill():
                raise IntegrityError(f"{self._what}: the tar is cut off")
            piece = self._view[: self._left]
            self._view = self._view[len(piece) :]
            self._left -= len(piece)
            yield piece

    def _entry(self, info: tarfile.TarInfo, name: str, target: str, size: int | None) -> TarEntry:
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise IntegrityError(f"{self._what}: {name!r} is a sparse file, which no layer may hold")
        size = info.size if size is None else size
        if info.type in _WITHOUT_DATA:
            size = 0
        if size < 0:
            raise IntegrityError(f"{self._what}: {name!r} has a negative size")
        if "\0" in name or "\0" in target:
            raise IntegrityError(f"{self._what}: {name!r} is not a name that a layer may hold")
        self._left, self._padding = size, -size % BLOCK
        kind = _KINDS.get(info.type, "other")
        # Before POSIX, a folder was a file whose name ends in a slash.
        return TarEntry(name, "folder" if kind == "file" and name.endswith("/") else kind, size, target)

    def _skip(self) -> None:
        for _ in self.content():
            pass
        self._left, self._padding = self._padding, 0
        # Padding that is not there at the very end of a stream is missed by nobody.
        while self._left and (self._view or self._fill()):
            piece = len(self._view[: self._left])
            self._view = self._view[piece:]
            self._left -= piece
        self._left = 0

    def _header(self) -> tarfile.TarInfo | None:
        block = self._take(BLOCK, required=False)
        if len(block) < BLOCK or block.count(0) == BLOCK:
            if block.strip(b"\0"):
                raise IntegrityError(f"{self._what}: the tar is cut off")
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise IntegrityError(f"{self._what}: not a sound tar: {error}") from error

    def _extension(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MAX_EXTENSION:
            raise IntegrityError(f"{self._what}: a tar header of {info.size} bytes")
        data = self._take(info.size, required=True)
        self._take(-info.size % BLOCK, required=False)
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

    def _take(self, size: int, *, required: bool) -> bytes:
        pieces = []
        while size and (self._view or self._fill()):
            piece = self._view[:size]
            self._view = self._view[len(piece) :]
            size -= len(piece)
            pieces.append(piece)
        if size and required:
            raise IntegrityError(f"{self._what}: the tar is cut off")
        return b"".join(pieces)

    def _fill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._view = memoryview(chunk)
                return True
        return False


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
