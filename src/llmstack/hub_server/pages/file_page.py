"""The page of one file: its size and hash, where to get it, and a preview."""

from __future__ import annotations

import posixpath
from contextlib import closing

from llmstack.errors import LlmstackError
from llmstack.hub_server.file_route import content_type
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.image_files import read_range
from llmstack.hub_server.pages.previews import START, Preview, may_preview, preview
from llmstack.hub_server.pages.repo_page import crumbs, is_locked
from llmstack.hub_server.paths import Target, file_url
from llmstack.hub_server.repos import Files, Revision

# A larger image is a download.
_MAX_IMAGE = 16 * 1024 * 1024


def values(hub: Hub, target: Target) -> dict[str, object] | None:
    """Return the values of the template; None if the path is not a file. Raises what finding the files raises."""
    repo = hub.repo_index.find(target.repo_type or "model", target.repo_id)
    revision = hub.repo_index.revision(repo.repo_type, repo.repo_id, target.revision)
    files = hub.repo_index.files(revision)
    file = files.files.get(target.path)
    if file is None:
        return None
    locked = is_locked(revision, files)
    is_image = content_type(file.path).startswith("image/") and file.size <= _MAX_IMAGE
    return {
        "repo": repo,
        "revision": revision,
        "file": file,
        "name": posixpath.basename(file.path),
        "locked": locked,
        "crumbs": crumbs(file.path),
        "url": file_url(revision, file.path),
        "is_image": is_image and not locked,
        "preview": None if locked or is_image else _preview(revision, files, file.path),
    }


def _preview(revision: Revision, files: Files, path: str) -> Preview | None:
    """Return the preview of a file; None if it has none, or cannot be read now."""
    file = files.files[path]
    if not file.size or not may_preview(path, file.size):
        return None
    try:
        with closing(read_range(revision, files, file, 0, min(START, file.size))) as chunks:
            return preview(path, b"".join(chunks), file.size)
    except LlmstackError:
        return None
