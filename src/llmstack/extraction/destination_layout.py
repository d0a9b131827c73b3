"""The paths of extracted files: in a plain directory, or in a Hugging Face cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmstack.carried_image.file_index import FileIndex, IndexedFile, check_path
from llmstack.carried_image.naming import check_repo_id
from llmstack.carried_image.selection import NO_SELECTION
from llmstack.disk import disk_errors
from llmstack.errors import IntegrityError, UsageError
from llmstack.extraction.destination import Destination
from llmstack.hf import cache_layout as cache
from llmstack.hf.snapshot import HubFile, RepoType


class DestinationLayout(Protocol):
    """How files are arranged in the destination."""

    @property
    def directory(self) -> Path:
        """The directory that is locked and written to."""

    @property
    def result(self) -> Path:
        """The directory in which the user finds the files."""

    def path_of(self, file: IndexedFile) -> str:
        """Return the path of a file's bytes in the directory. Files with the same bytes may share one."""

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Raise UsageError if `finish` cannot succeed."""

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Complete the layout after all files are published."""


@dataclass(frozen=True, slots=True)
class DirectoryLayout:
    """A plain directory: each file under its path in the repo."""

    directory: Path

    @property
    def result(self) -> Path:
        """The directory itself."""
        return self.directory

    def path_of(self, file: IndexedFile) -> str:
        """Return the file's path in the repo."""
        return file.path

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Check nothing."""

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Do nothing."""


class CacheLayout:
    """A repo's directory in a Hugging Face cache; see `llmstack.hf.cache_layout`."""

    def __init__(self, root: Path, index: FileIndex) -> None:
        """Raise IntegrityError if the index's repo id or revision is not valid: they become paths."""
        check_path(index.revision)
        try:
            repo_type: RepoType = "dataset" if index.repo_type == "dataset" else "model"
            self.directory = root / cache.repo_folder(check_repo_id(index.repo_id), repo_type)
        except UsageError as error:
            raise IntegrityError(f"file index: {error.message}") from error
        self._root = root
        self._index = index

    @property
    def result(self) -> Path:
        """The snapshot's directory."""
        return self.directory / "snapshots" / self._index.commit

    def path_of(self, file: IndexedFile) -> str:
        """Return the blob's path, which is named by the file's oid."""
        return cache.blob_path(file.oid)

    def check(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Raise UsageError if symbolic links are not supported, or a directory occupies the path of one."""
        destination.check_symlinks()
        for file in files:
            destination.check_path(cache.snapshot_link(self._index.commit, file.path, file.oid)[1])

    def finish(self, destination: Destination, files: Sequence[IndexedFile]) -> None:
        """Link the snapshot to the blobs, then write the ref."""
        index = self._index
        for file in files:
            destination.symlink(*cache.snapshot_link(index.commit, file.path, file.oid))
        if index.selection == NO_SELECTION:
            listed = (HubFile(file.path, file.size, file.oid) for file in index.files)
            destination.write(f"trees/{index.commit}.json", cache.tree_listing(listed))
        if index.revision != index.commit:
            destination.write(f"refs/{index.revision}", [index.commit.encode()])
        tag = self._root / cache.CACHEDIR_TAG
        with disk_errors(tag), contextlib.suppress(FileExistsError):
            descriptor = os.open(tag, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "wb") as file_object:
                file_object.write(cache.CACHEDIR_TAG_CONTENT)
