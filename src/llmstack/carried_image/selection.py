"""Select files of a repo by globs, with the meaning of `hf download --include/--exclude`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Selection:
    """The globs that select files of a repo.

    `prepare` is the sha256 of the script that prepared the files; None for the files of the Hub.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    prepare: str | None = None


NO_SELECTION = Selection()


def select(files: Iterable[T], selection: Selection, path: Callable[[T], str]) -> list[T]:
    """Return the files that match any include glob (if there is one) and no exclude glob.

    Globs match the complete path, `*` matches slashes, and a glob that ends with a slash selects a directory, as in
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
