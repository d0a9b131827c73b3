"""The file index of a carried image: its files, their hashes, and their positions in the layers.

Stored as `.llmstack/index.json`, the only file in the last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from llmstack.carried_image.json_stream import parse_items
from llmstack.carried_image.naming import is_tag_of
from llmstack.carried_image.selection import Selection
from llmstack.errors import IntegrityError, UsageError
from llmstack.hf.file_hash import FileHash
from llmstack.hf.snapshot import MAX_STRING, REPO_TYPES, HubFile, RepoType, parse_date
from llmstack.oci.reference import Digest
from llmstack.oci.spec import canonical_json
from llmstack.oci.tar_reader import MAX_DEPTH, MAX_NAME

INDEX_PATH = ".llmstack/index.json"
# The directory of a repo's files in an image.
ROOT = "REPO"
# Where KServe and others look for a model. Since format 3, models are stored here, with hard links in ROOT.
MODELS_ROOT = "models"
# Outside both, so that a part of a file is not mistaken for the file.
PARTS_ROOT = ".llmstack/parts"
# llmstack 0.1 and 0.2 wrote format 1, and format 2 for images with split files.
FORMAT_1 = "1"
FORMAT_2 = "2"
# The format of new images.
FORMAT = "3"
FORMATS = (FORMAT_1, FORMAT_2, FORMAT)
# Far more than 100,000 files with long names need.
MAX_INDEX_SIZE = 256 * 1024 * 1024
# A compressed layer may expand to an index of this size, and more if it is larger: hashes do not compress well.
_MAX_EXPANDED = 4 * 1024 * 1024
_EXPANDED_PER_BYTE = 64
# The number of files serialized in one piece.
_FILES_PER_PIECE = 500

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobRange:
    """Bytes of a file: `layer[offset : offset + size]` of a layer's uncompressed tar, which has the digest `layer`."""

    layer: Digest
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file: path in the repo, size in bytes, hashes, and the ranges that hold its bytes.

    `oid` is the Hub's hash: the sha256 of an LFS file (64 hex digits), else the git blob sha1 (40).
    A split file has several ranges, one in each of its layers, in order.
    """

    path: str
    size: int
    oid: str
    sha256: str
    ranges: tuple[BlobRange, ...]

    @property
    def is_split(self) -> bool:
        """Tell whether the file is split: in parts, each in its own layer."""
        return len(self.ranges) > 1

    @property
    def layers(self) -> tuple[Digest, ...]:
        """The layers that hold the bytes, in order."""
        return tuple(part.layer for part in self.ranges)

    def entry_path(self, root: str, number: int = 0) -> str:
        """Return the path in the image of the file, which is stored in `root`, or of a part of a split file."""
        return part_path(self.oid, number) if self.is_split else f"{root}/{self.path}"

    def new_hash(self) -> FileHash:
        """Return a hash to feed the file's bytes to, for `mismatch`."""
        return FileHash(HubFile(self.path, self.size, self.oid))

    def mismatch(self, content: FileHash) -> str | None:
        """Return the name of the hash that the bytes do not match, None if they match both."""
        if content.sha256 != self.sha256:
            return "sha256"
        return None if content.oid == self.oid else "oid"

    def to_json(self) -> dict[str, Any]:
        """Return the object that the index lists."""
        head = {name: getattr(self, name) for name in _FILE}
        if self.is_split:
            return {**head, "parts": [{name: getattr(part, name) for name in _PART} for part in self.ranges]}
        return {**head, "layer": self.ranges[0].layer, "offset": self.ranges[0].offset}


def max_index_size(stored: int) -> int:
    """Return how large a file index may be, in bytes, in a layer of `stored` bytes."""
    return min(MAX_INDEX_SIZE, _MAX_EXPANDED + _EXPANDED_PER_BYTE * stored)


def extents(file: IndexedFile, start: int, length: int) -> list[BlobRange]:
    """Return the ranges that hold `length` bytes of a file from `start` on, in order; fewer at the file's end."""
    found, stop, begins = [], start + length, 0
    for part in file.ranges:
        low, high = max(start - begins, 0), min(stop - begins, part.size)
        if low < high:
            found.append(BlobRange(part.layer, part.offset + low, high - low))
        begins += part.size
    return found


def part_path(oid: str, number: int) -> str:
    """Return the path in the image of one part of a split file. Sorted by path, the parts are in order."""
    return f"{PARTS_ROOT}/{oid}/{number:05}"


def root_of(repo_type: RepoType) -> str:
    """Return the directory of the tar entries that hold the files, in images of the current format."""
    return MODELS_ROOT if repo_type == "model" else ROOT


@dataclass(frozen=True, slots=True)
class FileIndex:
    """The files of a carried image, sorted by path, and the snapshot that they belong to.

    `incomplete` marks a partial image, `local` files that did not come from the Hub. `renamed_to` is the id that the
    Hub answered, if it is not the requested one. `format` is the version of the image's format.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    commit: str
    created: str
    license: str | None
    gated: bool
    selection: Selection
    files: tuple[IndexedFile, ...]
    incomplete: bool = False
    local: bool = False
    renamed_to: str | None = None
    format: str = FORMAT

    @property
    def size(self) -> int:
        """The total size of the files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def root(self) -> str:
        """The directory of the tar entries that hold the files."""
        return root_of(self.repo_type) if self.format == FORMAT else ROOT

    @property
    def claim(self) -> str:
        """What messages call the repo and revision that this index claims."""
        return f"{self.repo_type} {self.repo_id}@{self.revision}"

    def agrees_with(self, tag: str, repo_type: RepoType | None) -> bool:
        """Tell whether a tag is that of the repo and revision that this index claims.

        `repo_type` is the type of the images where the tag is; None if any type may be there.
        """
        return repo_type in {None, self.repo_type} and is_tag_of(tag, self.repo_id, self.revision)

    def to_bytes(self) -> bytes:
        """Serialize the index; the same index gives the same bytes."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of `to_bytes` in pieces, to save memory."""
        head = {name: getattr(self, name) for name in _HEAD}
        selection = {name: value for name, value in asdict(self.selection).items() if value is not None}
        head |= {name: value for name in _OPTIONAL if (value := getattr(self, name))}
        # The list of files is the last member.
        yield canonical_json({"format": self.format, **head, **selection, "files": []}).removesuffix(b"]}")
        for start in range(0, len(self.files), _FILES_PER_PIECE):
            listed = canonical_json([file.to_json() for file in self.files[start : start + _FILES_PER_PIECE]])
            yield (b"," if start else b"") + listed[1:-1]
        yield b"]}"

    @classmethod
    def parse(cls, chunks: Iterable[bytes | memoryview]) -> FileIndex:
        """Parse an index; raises IntegrityError for an unknown format, or invalid names or ranges."""
        value: dict[str, Any] = {}
        files: list[IndexedFile] = []
        layers: dict[str, Digest] = {}
        try:
            for item in parse_items(chunks, "files", value, "file index"):
                if "format" in value:
                    # If `format` comes first, files of an unknown format are not parsed.
                    _check_format(value)
                files.append(_parse_file(item, layers))
            _check_format(value)
            value["files"]
            index = cls(
                repo_id=_short(value, "repo_id"),
                repo_type=_repo_type(value),
                revision=_short(value, "revision"),
                commit=_string(value, "commit"),
                created=_date(value, "created"),
                license=None if value.get("license") is None else _short(value, "license"),
                gated=bool(value["gated"]),
                selection=Selection(
                    _strings(value, "include"), _strings(value, "exclude"), _optional_string(value, "prepare")
                ),
                files=tuple(files),
                incomplete=bool(value.get("incomplete")),
                local=bool(value.get("local")),
                renamed_to=None if value.get("renamed_to") is None else _short(value, "renamed_to"),
                format=_string(value, "format"),
            )
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise IntegrityError(f"file index: invalid: {error!r}") from error
        if not _COMMIT.fullmatch(index.commit):
            raise IntegrityError("file index: invalid commit")
        if index.format == FORMAT_1 and any(file.is_split for file in files):
            raise IntegrityError(f"file index: format {FORMAT_1} has no split files")
        check_paths(file.path for file in files)
        _check_hashes(files)
        return index


# Absent if false or None.
_OPTIONAL = ("incomplete", "local", "renamed_to")
_NOT_IN_HEAD = {"files", "selection", "format", *_OPTIONAL}
_HEAD = tuple(field.name for field in fields(FileIndex) if field.name not in _NOT_IN_HEAD)
_FILE = tuple(field.name for field in fields(IndexedFile) if field.name != "ranges")
_PART = tuple(field.name for field in fields(BlobRange))


def check_paths(paths: Iterable[str]) -> None:
    """Check that paths can be the files of one repo: valid, unique, none below a file; raises IntegrityError.

    NUL replaces the slash for sorting: it is in no path and sorts first, so that the paths below a path follow it
    directly.
    """
    ordered = sorted(check_path(path).replace("/", "\0") for path in paths)
    for path, following in pairwise(ordered):
        if following == path:
            raise IntegrityError(f"{following.replace(chr(0), '/')[:200]!r} is listed twice")
        if following.startswith(path + "\0"):
            raise IntegrityError(f"{following.replace(chr(0), '/')[:200]!r} is below a file")


def check_path(path: str) -> str:
    """Return `path` if it is a valid path of a file in a repo: Unicode, relative, normalized; raises IntegrityError."""
    names = path.split("/")
    invalid = "\0" in path or any(name in {"", ".", ".."} for name in names) or _SURROGATE.search(path)
    if not invalid and (len(names) > MAX_DEPTH or len(path.encode()) > MAX_NAME):
        raise IntegrityError(f"{path[:200]!r}: paths have at most {MAX_DEPTH} directories and {MAX_NAME} bytes")
    if invalid:
        raise IntegrityError(f"{path[:200]!r} is not a valid path of a file in a repo")
    return path


def _check_hashes(files: Iterable[IndexedFile]) -> None:
    """Raise IntegrityError if no bytes can have the listed sizes and hashes."""
    by_oid: dict[str, IndexedFile] = {}
    by_sha256: dict[tuple[str, int], IndexedFile] = {}
    sizes: dict[str, int] = {}
    for file in files:
        # The sha1 and the sha256 of the same bytes may both be an oid.
        same_oid = by_oid.setdefault(file.oid, file)
        same_sha256 = by_sha256.setdefault((file.sha256, len(file.oid)), file)
        is_lfs = len(file.oid) == len(file.sha256)
        if (
            (is_lfs and file.oid != file.sha256)
            or same_oid.sha256 != file.sha256
            or same_sha256.oid != file.oid
            or sizes.setdefault(file.sha256, file.size) != file.size
        ):
            raise IntegrityError(f"file index: {file.path[:200]!r} has an oid, sha256 or size that contradicts another")


def _check_format(value: dict[str, Any]) -> None:
    if value.get("format") not in FORMATS:
        raise IntegrityError(
            f"file index: format {str(value.get('format'))[:20]!r} is unknown",
            hint="upgrade llmstack: a newer version made this image",
        )


def _parse_file(value: object, layers: dict[str, Digest]) -> IndexedFile:
    """Parse one file; `layers` keeps one Digest for all files of a layer."""
    if not isinstance(value, dict):
        raise TypeError("a file must be an object")
    size = _number(value, "size")
    oid, sha256 = _string(value, "oid"), _string(value, "sha256")
    if not _OID.fullmatch(oid) or not _SHA256.fullmatch(sha256):
        raise ValueError("oid or sha256")
    parts = _parse_parts(value, size, layers) if "parts" in value else (_parse_part(value, size, layers),)
    return IndexedFile(_string(value, "path"), size, oid, sha256, parts)


def _parse_parts(value: dict[str, Any], size: int, layers: dict[str, Digest]) -> tuple[BlobRange, ...]:
    """Parse the parts of a split file: in two layers or more, each layer once."""
    parts = tuple(_parse_part(item, _number(item, "size"), layers) for item in value["parts"])
    if "layer" in value or "offset" in value or len(parts) < 2 or len({part.layer for part in parts}) < len(parts):
        raise ValueError("parts")
    if sum(part.size for part in parts) != size or not all(part.size for part in parts):
        raise ValueError("size of parts")
    return parts


def _parse_part(value: dict[str, Any], size: int, layers: dict[str, Digest]) -> BlobRange:
    layer = layers.setdefault(text := _string(value, "layer"), Digest.parse(text))
    return BlobRange(layer, _number(value, "offset"), size)


def _number(value: dict[str, Any], name: str) -> int:
    number = value[name]
    if type(number) is not int or number < 0:
        raise ValueError(name)
    return number


def _string(value: dict[str, Any], name: str) -> str:
    string = value[name]
    if not isinstance(string, str):
        raise TypeError(name)
    return string


def _short(value: dict[str, Any], name: str) -> str:
    string = _string(value, name)
    if len(string) > MAX_STRING:
        raise IntegrityError(f"file index: {name} has {len(string):,} characters, the limit is {MAX_STRING:,}")
    return string


def _date(value: dict[str, Any], name: str) -> str:
    parse_date(text := _string(value, name))
    return text


def _repo_type(value: dict[str, Any]) -> RepoType:
    for repo_type in REPO_TYPES:
        if value["repo_type"] == repo_type:
            return repo_type
    raise ValueError("repo_type")


def _optional_string(value: dict[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else _string(value, name)


def _strings(value: dict[str, Any], name: str) -> tuple[str, ...]:
    strings = value.get(name, [])
    if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
        raise TypeError(name)
    return tuple(strings)
