"""The file index: which files a carried image holds, their hashes, and where each one's bytes lie.

Stored as `.llmstack/index.json`, alone in the image's last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from llmstack.errors import IntegrityError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import canonical_json, parse_object

INDEX_PATH = ".llmstack/index.json"
ROOT = "REPO"
FORMAT = "1"
# 100,000 files with long names stay far below this.
MAX_INDEX_SIZE = 256 * 1024 * 1024
# What Linux opens, in bytes.
MAX_PATH = 4096

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of a repo were asked for: globs with the meaning of `hf download --include/--exclude`.

    `prepare` is the sha256 of the script that prepared the files, None for files as the hub has them.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    prepare: str | None = None


NO_SELECTION = Selection()


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file: path inside the repo, size in bytes, hashes, and the range of a layer blob that holds its bytes.

    `oid` is what the hub knows the file by: the sha256 of an LFS file (64 hex digits), else the git blob sha1 (40).
    The bytes are `layer[offset : offset + size]`, uncompressed.
    """

    path: str
    size: int
    oid: str
    sha256: str
    layer: Digest
    offset: int


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in one layer: `layer[offset : offset + size]`, uncompressed."""

    layer: Digest
    offset: int
    size: int


def extents(file: IndexedFile, start: int = 0, stop: int | None = None) -> tuple[Extent, ...]:
    """Return where the bytes `file[start:stop]` (all of them by default) lie, in order; none for no bytes."""
    end = file.size if stop is None else min(stop, file.size)
    return (Extent(file.layer, file.offset + start, end - start),) if start < end else ()


@dataclass(frozen=True, slots=True)
class FileIndex:
    """A carried image's files, sorted by path, and the snapshot that they are of.

    `incomplete` marks what a ferry that is still running, or did not end well, has carried so far.
    """

    repo_id: str
    repo_type: str
    revision: str
    commit: str
    created: str
    license: str | None
    gated: bool
    selection: Selection
    files: tuple[IndexedFile, ...]
    incomplete: bool = False

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """Serialise the index; the same index gives the same bytes."""
        head = {name: getattr(self, name) for name in _HEAD}
        selection = {name: value for name, value in asdict(self.selection).items() if value is not None}
        files = [{name: getattr(file, name) for name in _FILE} for file in self.files]
        if self.incomplete:
            head["incomplete"] = True
        return canonical_json({"format": FORMAT, **head, **selection, "files": files})

    @classmethod
    def parse(cls, data: bytes) -> FileIndex:
        """Read an index; raises IntegrityError if it is of another format, or names or ranges are not allowed."""
        value = parse_object(data, "file index")
        if value.get("format") != FORMAT:
            raise IntegrityError(
                f"file index: format {str(value.get('format'))[:20]!r} is not known",
                hint="the image was made by a newer llmstack: upgrade",
            )
        try:
            files = tuple(_parse_file(item) for item in value["files"])
            index = cls(
                repo_id=_text(value, "repo_id"),
                repo_type=_text(value, "repo_type"),
                revision=_text(value, "revision"),
                commit=_text(value, "commit"),
                created=_text(value, "created"),
                license=_optional_text(value, "license"),
                gated=bool(value["gated"]),
                selection=Selection(
                    _texts(value, "include"), _texts(value, "exclude"), _optional_text(value, "prepare")
                ),
                files=files,
                incomplete=bool(value.get("incomplete")),
            )
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise IntegrityError(f"file index: {error!r} makes it unreadable") from error
        if index.repo_type not in {"model", "dataset"} or not _COMMIT.fullmatch(index.commit):
            raise IntegrityError("file index: wrong repo type or commit")
        check_paths(file.path for file in files)
        return index


_HEAD = tuple(field.name for field in fields(FileIndex) if field.name not in {"files", "selection", "incomplete"})
_FILE = tuple(field.name for field in fields(IndexedFile))


def check_paths(paths: Iterable[str]) -> None:
    """Make sure that these can be one repo's files: clean paths, none twice, none below a file; raises IntegrityError.

    With a zero for the slash, which no path holds and nothing sorts before, what lies below a path follows it at once.
    """
    ordered = sorted(check_path(path).replace("/", "\0") for path in paths)
    for path, following in pairwise(ordered):
        if following == path:
            raise IntegrityError(f"{following.replace(chr(0), '/')[:200]!r} is listed twice")
        if following.startswith(path + "\0"):
            raise IntegrityError(f"{following.replace(chr(0), '/')[:200]!r} lies below a file")


def check_path(path: str) -> str:
    """Return `path` if it is one that a repo may hold: Unicode, relative, clean, inside; raises IntegrityError."""
    wrong = "\0" in path or any(part in {"", ".", ".."} for part in path.split("/"))
    if wrong or len(path.encode(errors="replace")) > MAX_PATH or _SURROGATE.search(path):
        raise IntegrityError(f"{path[:200]!r} is not a path that a repo may hold")
    return path


def _parse_file(value: dict[str, Any]) -> IndexedFile:
    size, offset = value["size"], value["offset"]
    if type(size) is not int or type(offset) is not int or size < 0 or offset < 0:
        raise ValueError("size or offset")
    oid, sha256 = _text(value, "oid"), _text(value, "sha256")
    if not _OID.fullmatch(oid) or not _SHA256.fullmatch(sha256):
        raise ValueError("oid or sha256")
    return IndexedFile(_text(value, "path"), size, oid, sha256, Digest.parse(_text(value, "layer")), offset)


def _text(value: dict[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise TypeError(name)
    return text


def _optional_text(value: dict[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else _text(value, name)


def _texts(value: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = value.get(name, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(name)
    return tuple(texts)
