"""The repos of a loopback hub: files with their git and LFS hashes, commits, branches, tags."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from tests.support.webserver import Repeated

RepoType = Literal["model", "dataset"]
Gated = Literal[False, "auto", "manual"]

FIRST_COMMIT = datetime(2024, 1, 1, 12, tzinfo=UTC)
# Generated files repeat this block from different offsets. It is not compressible.
BLOCK = random.Random(6).randbytes(1024 * 1024)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True, slots=True)
class Generated:
    """A file of `size` bytes, generated while it is sent; other seeds give other bytes.

    `sha256` saves the time to hash a very large file.
    """

    size: int
    seed: int = 0
    sha256: str | None = None

    def body(self, start: int, stop: int) -> Repeated:
        return Repeated(BLOCK, self.seed + start, self.seed + stop)

    def read(self, start: int, stop: int) -> Iterator[memoryview]:
        return self.body(0, self.size).pieces(start, stop)


Content = bytes | Path | Generated


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit; `oid` is the git blob sha1 of the file, or of the pointer of an LFS file."""

    path: str
    content: Content
    size: int
    oid: str
    sha256: str | None
    pointer_size: int

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def read(self, start: int, stop: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start:stop]
        if isinstance(self.content, Generated):
            return b"".join(self.content.read(start, stop))
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class Commit:
    """A commit; `files` is sorted by path."""

    sha: str
    title: str
    date: datetime
    files: dict[str, HubFile]
    parent: Commit | None

    @cached_property
    def paths(self) -> list[str]:
        """Every file's and folder's path, sorted."""
        return sorted([*self.folders, *self.files])

    @cached_property
    def folders(self) -> dict[str, str]:
        """Every folder's path with an invented tree id."""
        parents = {str(parent) for path in self.files for parent in Path(path).parents} - {"."}
        return {path: hashlib.sha1(f"{self.sha} {path}".encode()).hexdigest() for path in sorted(parents)}


class Repo:
    """A model or dataset repo with its history, created by Hub.add_repo.

    Commits have dates one day apart, and their ids depend on their content: the same calls give the same repo.
    """

    def __init__(
        self,
        repo_id: str,
        repo_type: RepoType,
        *,
        license: str | None,  # noqa: A002 - the hub's word for it
        gated: Gated,
        private: bool,
        lfs_over: int,
    ) -> None:
        self.id = repo_id
        self.type = repo_type
        self.license = license
        self.gated = gated
        self.private = private
        self.lfs_over = lfs_over
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    @property
    def sha(self) -> str:
        """The commit of `main`."""
        return self.branches["main"]

    def head(self, revision: str = "main") -> Commit:
        """Return the commit of a branch, a tag or a commit id; raises KeyError."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return self.commits[self.branches.get(name) or self.tags.get(name) or name]

    def commit(
        self,
        files: Mapping[str, Content],
        *,
        delete: Iterable[str] = (),
        branch: str = "main",
        title: str = "Update",
        date: datetime | None = None,
    ) -> Commit:
        """Add a commit to a branch: its last one's files without `delete`, with `files`. A new branch starts at main.

        A file larger than the repo's `lfs_over` bytes becomes an LFS file. A Path's content is read from there
        whenever it is asked for.
        """
        start = self.branches.get(branch) or self.branches.get("main")
        parent = self.commits[start] if start else None
        merged = dict(parent.files) if parent else {}
        for path in delete:
            del merged[path]
        merged |= {path: self._file(path, content) for path, content in files.items()}
        listing = "".join(f"{path}\0{file.oid}\n" for path, file in sorted(merged.items()))
        text = f"{self.type} {self.id} {len(self.commits)} {parent.sha if parent else ''} {branch} {title}\n{listing}"
        commit = Commit(
            sha=hashlib.sha1(text.encode()).hexdigest(),
            title=title,
            date=date or FIRST_COMMIT + timedelta(days=len(self.commits)),
            files=dict(sorted(merged.items())),
            parent=parent,
        )
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def tag(self, name: str, revision: str = "main") -> None:
        self.tags[name] = self.head(revision).sha

    def _file(self, path: str, content: Content) -> HubFile:
        size = _size(content)
        if size <= self.lfs_over:
            return HubFile(path, content, size, git_oid(_read(content)), None, 0)
        sha256 = _sha256(content)
        pointer = POINTER.format(sha256, size).encode()
        return HubFile(path, content, size, git_oid(pointer), sha256, len(pointer))


def git_oid(data: bytes) -> str:
    """Return git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _size(content: Content) -> int:
    if isinstance(content, bytes):
        return len(content)
    return content.size if isinstance(content, Generated) else content.stat().st_size


def _read(content: Content) -> bytes:
    if isinstance(content, Generated):
        return b"".join(content.read(0, content.size))
    return content if isinstance(content, bytes) else content.read_bytes()


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if isinstance(content, Generated):
        return content.sha256 or _hashed(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashed(content: Generated) -> str:
    digest = hashlib.sha256()
    for piece in content.read(0, content.size):
        digest.update(piece)
    return digest.hexdigest()
