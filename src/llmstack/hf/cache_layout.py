"""The Hugging Face cache as huggingface_hub lays it out, so that it reads it offline (0.36, 1.x and 2.x).

    HF_HUB_CACHE/CACHEDIR.TAG
    HF_HUB_CACHE/models--owner--name/blobs/<oid>
                                     refs/<revision>                 the commit, without a newline
                                     snapshots/<commit>/<path>       a link to ../../blobs/<oid>
                                     trees/<commit>.json             2.x: the list of files

Names and contents only, as values; who writes them is not this module's business.
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
# The variables that say where the cache is, the first that is set, and where it lies below what they name.
_CACHES = (
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "/hub"),
    ("XDG_CACHE_HOME", "/huggingface/hub"),
)


def default_cache() -> Path:
    """Return HF_HUB_CACHE, found as huggingface_hub does (`constants.py`), without importing it.

    Raises UsageError that names the variable if it begins with the home folder of nobody.
    """
    for variable, below in _CACHES:
        if value := os.environ.get(variable):
            return expand_home(os.path.expandvars(f"{value}{below}"), variable)
    return expand_home("~/.cache/huggingface/hub", "HOME")


def repo_folder(repo_id: str, repo_type: RepoType) -> str:
    """Return the name of a repo's folder in the cache."""
    return "--".join([f"{repo_type}s", *repo_id.split("/")])


def blob_path(oid: str) -> str:
    """Return where a file's bytes lie in its repo's folder."""
    return f"blobs/{oid}"


def snapshot_link(commit: str, path: str, oid: str) -> tuple[str, str]:
    """Return the link of one file in its repo's folder: its target, and its own path."""
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
