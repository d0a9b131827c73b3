"""File names and contents of the Hugging Face cache, as huggingface_hub 0.36, 1.x and 2.x read it offline.

    HF_HUB_CACHE/CACHEDIR.TAG
    HF_HUB_CACHE/models--owner--name/blobs/<oid>
                                     refs/<revision>                 the commit, without a newline
                                     snapshots/<commit>/<path>       a symlink to ../../blobs/<oid>
                                     trees/<commit>.json             2.x: the list of files

This module writes nothing: it returns paths and bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmstack.hf.snapshot import HubFile, RepoType
from llmstack.settings import expand_home

CACHEDIR_TAG = "CACHEDIR.TAG"
# The signature is fixed by the Cache Directory Tagging Specification.
CACHEDIR_TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of Hugging Face files.\n"
_TREE_FORMAT = 1
# Variables that name the cache, by precedence, and the cache's path below their value.
_CACHE_VARIABLES = (
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "/hub"),
    ("XDG_CACHE_HOME", "/huggingface/hub"),
)


def default_cache() -> Path:
    """Return HF_HUB_CACHE, resolved as in huggingface_hub's `constants.py`, without importing it.

    Raises UsageError if a variable's value begins with `~` and there is no such home directory.
    """
    for variable, path_below in _CACHE_VARIABLES:
        if value := os.environ.get(variable):
            return expand_home(os.path.expandvars(f"{value}{path_below}"), variable)
    return expand_home("~/.cache/huggingface/hub", "HOME")


def repo_folder(repo_id: str, repo_type: RepoType) -> str:
    """Return the name of a repo's directory in the cache."""
    return "--".join([f"{repo_type}s", *repo_id.split("/")])


def blob_path(oid: str) -> str:
    """Return the path of a file's bytes in its repo's directory."""
    return f"blobs/{oid}"


def snapshot_link(commit: str, path: str, oid: str) -> tuple[str, str]:
    """Return a file's symlink in its repo's directory: target, and path of the symlink itself."""
    up = "../" * (2 + path.count("/"))
    return f"{up}blobs/{oid}", f"snapshots/{commit}/{path}"


def tree_listing(files: Iterable[HubFile]) -> Iterator[bytes]:
    """Yield `trees/<commit>.json` for all files of a snapshot (huggingface_hub 2.4, `_tree_cache.py`)."""
    yield b'{\n "format_version": %d,\n "files": {' % _TREE_FORMAT
    for number, file in enumerate(files):
        entry: dict[str, Any] = {"size": file.size, "blob_id": file.oid}
        if file.is_lfs:
            entry |= {"blob_id": file.git_oid, "lfs_sha256": file.oid, "lfs_size": file.size}
        yield f"{',' if number else ''}\n  {json.dumps(file.path)}: {json.dumps(entry)}".encode()
    yield b"\n }\n}"
