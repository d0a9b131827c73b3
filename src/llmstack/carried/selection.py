"""Which files are meant by `--include` and `--exclude`: globs with the meaning that `hf download` gives them.

A glob is matched against the whole path with fnmatch, so `*` crosses slashes; a glob that ends in a slash means all
that lies below; backslashes count as slashes; case counts (huggingface_hub 2.4, `filter_repo_objects`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

from llmstack.carried.fileindex import Selection


def matcher(selection: Selection) -> Callable[[str], bool]:
    """Return a function that tells whether a path is selected: by one `include` if there are any, by no `exclude`."""
    include, exclude = _compile(selection.include), _compile(selection.exclude)

    def selected(path: str) -> bool:
        path = path.replace("\\", "/")
        return (include is None or include(path)) and not (exclude is not None and exclude(path))

    return selected


def _compile(globs: Iterable[str]) -> Callable[[str], bool] | None:
    patterns = [glob.replace("\\", "/") for glob in globs]
    if not patterns:
        return None
    whole = "|".join(fnmatch.translate(glob + "*" if glob.endswith("/") else glob) for glob in patterns)
    compiled = re.compile(whole)
    return lambda path: compiled.match(path) is not None
