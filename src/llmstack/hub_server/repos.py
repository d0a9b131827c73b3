"""Repos, their revisions and files as values; no IO."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.image import StoredLayer
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hf.snapshot import HubFile, RepoType
from llmstack.oci.reference import Digest
from llmstack.oci.store import BlobReader

# The Hub takes larger files in LFS only, in bytes.
_MAX_GIT_FILE = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Revision:
    """One image: a repo at the revision that was carried.

    `image` is its reference with the tag. `size` is the total size of the files, `created` the date of the commit (ISO
    8601). An image without a file index has no `files` and `created`; its `size` is that of the layers, and `commit` is
    derived from the digest. `needs_extract` means that files are in compressed layers, which allow no range reads.
    `renamed_to` is the id that the Hub has for a renamed repo. `has_base` is false if the image has the files only.
    """

    repo_type: RepoType
    repo_id: str
    name: str
    commit: str
    image: str
    digest: Digest
    size: int
    files: int | None
    license: str | None
    gated: bool
    created: str | None
    needs_extract: bool
    reader: BlobReader = field(repr=False, compare=False)
    renamed_to: str | None = None
    has_base: bool = True


@dataclass(frozen=True, slots=True)
class Repo:
    """A repo with its revisions: `main` first, the others by name."""

    repo_type: RepoType
    repo_id: str
    revisions: tuple[Revision, ...]

    @property
    def shown(self) -> Revision:
        """The revision that lists show: main, else the first."""
        return self.revisions[0]

    @property
    def ids(self) -> frozenset[str]:
        """The ID that the repo was carried under, and the one that the Hub has if it renamed the repo."""
        return frozenset({self.repo_id, *(item.renamed_to for item in self.revisions if item.renamed_to)})

    def revision(self, name: str) -> Revision | None:
        """Return the revision with this name, else the one with this commit."""
        named = (revision for revision in self.revisions if revision.name == name)
        return next(named, None) or next((item for item in self.revisions if item.commit == name), None)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one image by path, and their layers by diff ID. `paths` are sorted.

    `local` files were carried from a machine, not from the Hub.
    """

    files: Mapping[str, IndexedFile]
    layers: Mapping[Digest, StoredLayer]
    local: bool = False
    paths: Sequence[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", sorted(self.files))

    def is_lfs(self, file: IndexedFile) -> bool:
        """Tell whether git has a pointer instead of a file; for local files, whether it would on the Hub, by size."""
        known = HubFile(file.path, file.size, file.oid)
        return known.is_lfs and (not self.local or file.size > _MAX_GIT_FILE)

    def in_order(self) -> Iterator[IndexedFile]:
        """Yield the files, sorted by path."""
        return map(self.files.__getitem__, self.paths)

    def below(self, folder: str) -> range:
        """Return the positions in `paths` of what is below a folder; "" is the root."""
        return range(self._find(f"{folder}/"), self.after(folder)) if folder else range(len(self.paths))

    def after(self, folder: str) -> int:
        """Return the position in `paths` of the first one after those below a folder."""
        # "0" is the character after "/".
        return self._find(f"{folder}0")

    def _find(self, path: str) -> int:
        return bisect_left(self.paths, path)


@dataclass(frozen=True, slots=True)
class Found:
    """A file and its revision."""

    revision: Revision
    files: Files
    file: IndexedFile


def make_repo(repo_type: RepoType, repo_id: str, revisions: list[Revision]) -> Repo:
    """Return a repo with its revisions sorted."""
    ordered = sorted(revisions, key=lambda item: (item.name != DEFAULT_REVISION, item.name))
    return Repo(repo_type, repo_id, tuple(ordered))
