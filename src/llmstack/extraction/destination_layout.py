"""Where each file goes: into a plain folder under its own path, or into a Hugging Face cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmstack.carried_image.file_index import NO_SELECTION, FileIndex, IndexedFile, check_path
from llmstack.carried_image.naming import check_repo_id
from llmstack.disk import disk_errors
from llmstack.errors import IntegrityError, UsageError
from llmstack.extraction.destination import Destination
from llmstack.hf import cache_layout as cache
from llmstack.hf.snapshot import HubFile, RepoType


class DestinationLayout(Protocol):
    """How files lie in the destination."""

    @property
    def folder(self) -> Path:
        """The folder that is written into, and locked."""

    @property
    def result(self) -> Path:
        """The folder that a person finds the files in."""

    def place(self, file: IndexedFile) -> str:
        """Return where a file's bytes go in the folder; files of the same bytes may share one place."""

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Raise UsageError if something is in the way of what `finish` does."""

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Do what is left when all files are in place."""


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """A plain folder: each file under its path in the repo."""

    folder: Path

    @property
    def result(self) -> Path:
        """The folder itself."""
        return self.folder

    def place(self, file: IndexedFile) -> str:
        """Return the file's path in the repo."""
        return file.path

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Nothing can be in the way of nothing."""

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Nothing is left to do."""


class CacheLayout:
    """A repo's folder in a Hugging Face cache; see `llmstack.hf.cache_layout`."""

    def __init__(self, root: Path, index: FileIndex) -> None:
        """Check what becomes folder names; raises IntegrityError."""
        try:
            repo_type: RepoType = "dataset" if index.repo_type == "dataset" else "model"
            self.folder = root / cache.repo_folder(check_repo_id(index.repo_id), repo_type)
        except UsageError as error:
            raise IntegrityError(f"file index: {error.message}") from error
        self._root = root
        self._index = index

    @property
    def result(self) -> Path:
        """The snapshot's folder."""
        return self.folder / "snapshots" / self._index.commit

    def place(self, file: IndexedFile) -> str:
        """Return the blob's path: what the hub knows the file by."""
        return cache.blob_path(file.oid)

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Raise UsageError where no link can be made, or something else is in the place of one."""
        destination.check_links()
        for file in files:
            destination.check(cache.snapshot_link(self._index.commit, file.path, file.oid)[1])

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Link the snapshot to the blobs and, last of all, let the revision point to it."""
        index = self._index
        for file in files:
            destination.symlink(*cache.snapshot_link(index.commit, file.path, file.oid))
        if index.selection == NO_SELECTION:
            listed = (HubFile(file.path, file.size, file.oid) for file in index.files)
            destination.write(f"trees/{index.commit}.json", cache.tree_listing(listed))
        if index.revision != index.commit:
            destination.write(f"refs/{check_path(index.revision)}", [index.commit.encode()])
        tag = self._root / cache.CACHEDIR_TAG
        with disk_errors(tag), contextlib.suppress(FileExistsError):
            descriptor = os.open(tag, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "wb") as file_object:
                file_object.write(cache.CACHEDIR_TAG_CONTENT)
