"""Which files a selection's globs name, with the meaning of `hf download --include/--exclude`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TypeVar

from llmstack.carried_image.file_index import Selection

T = TypeVar("T")


def select(files: Iterable[T], selection: Selection, path: Callable[[T], str]) -> list[T]:
    """Return the files that a selection names: any include (or none given), and no exclude.

    Globs match the whole path, `*` crosses slashes, and a glob that ends with a slash names a folder, as in
    huggingface_hub's filter_repo_objects.
    """
    include, exclude = _globs(selection.include), _globs(selection.exclude)
    return [
        file for file in files if (not include or _matches(path(file), include)) and not _matches(path(file), exclude)
    ]


def _globs(globs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{glob}*" if glob.endswith("/") else glob for glob in globs)


def _matches(path: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)
