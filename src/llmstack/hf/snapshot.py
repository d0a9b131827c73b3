"""A repo pinned to one commit, as values; no IO and no import of huggingface_hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

RepoType = Literal["model", "dataset"]
# The limit for a repo id, a revision and a license.
MAX_STRING = 1024
# The first line of a pointer (git-lfs docs/spec.md).
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
REPO_TYPES: tuple[RepoType, ...] = get_args(RepoType)


def parse_date(text: str) -> datetime:
    """Return an ISO 8601 date in UTC; raises ValueError, also for a date outside the years 1 to 9999."""
    try:
        date = datetime.fromisoformat(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text[:40]!r} is outside the years 1 to 9999") from error


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a snapshot: path in the repo, size in bytes, and the hash that the Hub lists.

    `oid` is the sha256 of an LFS file (64 hex digits), or the git blob sha1 of any other file (40).
    """

    path: str
    size: int
    oid: str

    @property
    def is_lfs(self) -> bool:
        """Whether the Hub stores the file in LFS, so that its oid is a sha256."""
        return len(self.oid) == 64

    @property
    def pointer(self) -> bytes:
        """The pointer that git stores for an LFS file."""
        return LFS_POINTER + f"oid sha256:{self.oid}\nsize {self.size}\n".encode()

    @property
    def git_oid(self) -> str:
        """The git blob sha1 of the file, or of its pointer if the file is in LFS."""
        if not self.is_lfs:
            return self.oid
        sha1 = git_blob_sha1(len(self.pointer))
        sha1.update(self.pointer)
        return sha1.hexdigest()


def git_blob_sha1(size: int) -> hashlib._Hash:
    """Return the hash that git computes over a blob of `size` bytes, before its first byte."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A repo at a revision: the commit, and what the model card and the owner declare.

    `last_modified` is an ISO 8601 time in UTC, to the second. `renamed_to` is the current id of a renamed repo. The
    files of a `local` repo are on this machine, not on the Hub.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    commit: str
    last_modified: str
    license: str | None
    gated: bool
    renamed_to: str | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repo pinned to a commit, with its files sorted by path. `created` is the commit's date (ISO 8601, UTC)."""

    info: RepoInfo
    created: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.size for file in self.files)
