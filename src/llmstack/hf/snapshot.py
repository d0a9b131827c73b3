"""A repo pinned to one commit, as values; no IO and no import of huggingface_hub."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmstack.errors import IntegrityError

RepoType = Literal["model", "dataset"]
REPO_TYPES: tuple[RepoType, ...] = get_args(RepoType)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a snapshot: path in the repo, size in bytes, and the hash that the hub vouches for.

    `oid` is the sha256 of an LFS file (64 hex digits), else the git blob sha1 (40).
    """

    path: str
    size: int
    oid: str

    @property
    def is_lfs(self) -> bool:
        """Tell whether the hub keeps the file in LFS, so that its oid is the sha256 of its bytes."""
        return len(self.oid) == 64

    @property
    def pointer(self) -> bytes:
        """What git holds of an LFS file (git-lfs docs/spec.md)."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n".encode()

    @property
    def git_oid(self) -> str:
        """The git blob sha1 of what git holds: the file, or an LFS file's pointer."""
        if not self.is_lfs:
            return self.oid
        return hashlib.sha1(b"blob %d\0" % len(self.pointer) + self.pointer, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """What the hub says of a repo at a revision: the commit, and what the card and the owner declare.

    `last_modified` is an ISO 8601 time in UTC, with seconds.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    commit: str
    last_modified: str
    license: str | None
    gated: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repo pinned to a commit, with its files sorted by path. `created` is the commit's date (ISO 8601, UTC)."""

    info: RepoInfo
    created: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


class FileHash:
    """Hashes a file as it passes, the way the hub does, and its sha256 as well."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git: Any = None
        if not file.is_lfs:
            self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    def copy(self) -> FileHash:
        """Return a hash that has seen the same, and goes its own way from here."""
        twin = FileHash(self._file)
        twin._sha256 = self._sha256.copy()
        twin._git = self._git and self._git.copy()
        return twin

    def update(self, chunk: bytes | memoryview) -> None:
        """Take in the next bytes."""
        self._sha256.update(chunk)
        if self._git:
            self._git.update(chunk)

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes."""
        return str(self._sha256.hexdigest())

    @property
    def oid(self) -> str:
        """The hash by which the Hub lists these bytes: the git blob sha1, or the sha256 of an LFS file."""
        return str(self._git.hexdigest()) if self._git else self.sha256

    def check(self) -> str:
        """Return the sha256 of a whole file; raises IntegrityError when the hub's hash is another one."""
        if self.oid != self._file.oid:
            raise IntegrityError(
                f"{self._file.path}: the bytes that the hub sent do not match the hash it lists",
                hint="try again; if it stays so, the file on the hub is damaged",
                side="source",
            )
        return self.sha256


def verifying(
    file: HubFile, chunks: Generator[bytes, None, None], verified: Callable[[HubFile, str], None]
) -> Generator[bytes, None, None]:
    """Pass a file's bytes on, hashed on the way, and call `verified` with its sha256 at the end.

    Raises IntegrityError instead of ending when the hub's hash does not match. Closing it closes `chunks`.
    """
    seen = FileHash(file)
    with contextlib.closing(chunks):
        for chunk in chunks:
            seen.update(chunk)
            yield chunk
    verified(file, seen.check())
