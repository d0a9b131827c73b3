"""Addresses of the hub's own, for pages to link to."""

from __future__ import annotations

from urllib.parse import quote

from llmstack.hf.hub_urls import repo_path
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.repos import Revision


def repo_url(kind: RepoType, repo_id: str) -> str:
    """Return the address of a repo's page."""
    return f"/{repo_path(repo_id, kind)}"


def folder_url(revision: Revision, path: str = "") -> str:
    """Return the address of a folder's page at a revision (the empty one: the whole repo's)."""
    return _url(revision, "tree", revision.name, path)


def file_url(revision: Revision, path: str) -> str:
    """Return the address of a file's bytes at a revision, by its commit: they never change."""
    return _url(revision, "resolve", revision.commit, path)


def _url(revision: Revision, verb: str, name: str, path: str) -> str:
    url = f"{repo_url(revision.kind, revision.repo_id)}/{verb}/{_quoted(name, '')}"
    return f"{url}/{_quoted(path, '/')}" if path else url


def _quoted(text: str, safe: str) -> str:
    return quote(text, safe=safe, errors="surrogateescape")
