"""What the hub serves, as values: repos, their revisions, and the files of one of them; no IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.image import StoredLayer
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hf.snapshot import RepoType
from llmstack.oci.reference import Digest
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class Revision:
    """One image: what was ferried of a repo under one revision's name.

    `image` names it as people do, tag included. `size` is the bytes of the files, `created` the commit's date (ISO
    8601): when it was carried no image tells. An image that llmstack did not write has no file index: `files` and
    `created` are None then, `size` is that of its layers, and `commit` stands for the image alone. `needs_extract`
    tells that files lie in compressed layers, of which no range can be read.
    """

    kind: RepoType
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


@dataclass(frozen=True, slots=True)
class Repo:
    """A repo that is there, with its revisions: `main` first if it was carried, the others by name."""

    kind: RepoType
    repo_id: str
    revisions: tuple[Revision, ...]

    @property
    def shown(self) -> Revision:
        """The revision that stands for the repo in lists: main, else the first there is."""
        return self.revisions[0]

    def revision(self, name: str) -> Revision | None:
        """Return what was carried as `name`, or is of the commit `name`; None if nothing is."""
        named = (revision for revision in self.revisions if revision.name == name)
        return next(named, None) or next((item for item in self.revisions if item.commit == name), None)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one image by their path, sorted, and the layers that they lie in by the digest of their tar."""

    files: Mapping[str, IndexedFile]
    layers: Mapping[Digest, StoredLayer]

    def in_order(self) -> tuple[IndexedFile, ...]:
        """Return the files, sorted by path."""
        return tuple(self.files.values())


def make_repo(kind: RepoType, repo_id: str, revisions: list[Revision]) -> Repo:
    """Put a repo's revisions into their order."""
    return Repo(kind, repo_id, tuple(sorted(revisions, key=lambda item: (item.name != DEFAULT_REVISION, item.name))))
