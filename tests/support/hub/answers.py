"""The responses of the Hub's JSON API, as pure functions of the repo and the query."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

from tests.support.hub.content import Commit, HubFile, Repo

Query = dict[str, list[str]]

TREE_PAGE = 1000
EXPANDED_TREE_PAGE = 50


def info(repo: Repo, commit: Commit, query: Query) -> dict[str, Any]:
    """GET /api/models/{id}[/revision/{rev}], with `blobs=true` or `expand=NAME`."""
    blobs = query.get("blobs") == ["true"]
    card = {"license": repo.license} if repo.license else {}
    full: dict[str, Any] = {
        "_id": commit.sha[:24],
        "id": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit.sha,
        "lastModified": timestamp(repo.head().date),
        "createdAt": timestamp(next(iter(repo.commits.values())).date),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 7,
        "likes": 3,
        "tags": [f"license:{repo.license}"] if repo.license else [],
        "cardData": card,
        "siblings": [_sibling(file, blobs) for file in commit.files.values()],
    }
    if "expand" not in query:
        return full
    return {name: full[name] for name in ("_id", "id", *query["expand"]) if name in full}


def _sibling(file: HubFile, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        sibling |= {"size": file.size, "blobId": file.oid}
        if file.sha256:
            sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return sibling


def tree(commit: Commit, folder: str, query: Query) -> tuple[list[dict[str, Any]], str | None]:
    """GET …/tree/{rev}[/{folder}]: a page, and the query of the next page; raises KeyError for an unknown folder."""
    if folder and folder not in commit.folders:
        raise KeyError(folder)
    recursive = query.get("recursive", ["false"])[0].lower() == "true"
    expand = query.get("expand", ["false"])[0].lower() == "true"
    prefix = f"{folder}/" if folder else ""
    paths = (path for path in commit.paths if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :]))
    size = int(query.get("limit", [EXPANDED_TREE_PAGE if expand else TREE_PAGE])[0])
    start = int(query.get("cursor", ["0"])[0])
    page = list(islice(paths, start, start + size + 1))
    entries = [tree_entry(commit, path, expand=expand) for path in page[:size]]
    if len(page) <= size:
        return entries, None
    following = {name: values[0] for name, values in query.items()} | {"cursor": str(start + size)}
    return entries, "&".join(f"{name}={quote(value, safe='')}" for name, value in following.items())


def tree_entry(commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    """A file or folder in the responses of tree and paths-info."""
    if file := commit.files.get(path):
        entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.sha256:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    else:
        entry = {"type": "directory", "oid": commit.folders[path], "size": 0, "path": path}
    if expand:
        entry["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": timestamp(commit.date)}
    return entry


def paths_info(commit: Commit, paths: list[str], *, expand: bool) -> list[dict[str, Any]]:
    """POST …/paths-info/{rev}: the existing ones of the paths."""
    return [tree_entry(commit, path, expand=expand) for path in paths if path in commit.files or path in commit.folders]


def refs(repo: Repo, query: Query) -> dict[str, Any]:
    """GET …/refs; a branch named refs/pr/N is a pull request."""
    pulls = [name for name in repo.branches if name.startswith("refs/pr/")]
    answer: dict[str, Any] = {
        "branches": [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repo.branches.items()
            if name not in pulls
        ],
        "converts": [],
        "tags": [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repo.tags.items()],
    }
    if query.get("include_prs") == ["1"]:
        answer["pullRequests"] = [
            {"name": name.rpartition("/")[2], "ref": name, "targetCommit": repo.branches[name]} for name in pulls
        ]
    return answer


def commits(commit: Commit, query: Query) -> list[dict[str, Any]]:
    """GET …/commits/{rev}[?limit=N]: newest first, all on one page."""
    history: list[dict[str, Any]] = []
    at: Commit | None = commit
    while at is not None:
        history.append(
            {
                "id": at.sha,
                "title": at.title,
                "message": "",
                "authors": [{"user": "tester"}],
                "date": timestamp(at.date),
            }
        )
        at = at.parent
    return history[: int(query["limit"][0])] if "limit" in query else history


def timestamp(date: datetime) -> str:
    """Return a date as the Hub writes it; one that is not in UTC keeps its offset."""
    if date.utcoffset():
        return date.isoformat()
    return date.strftime("%Y-%m-%dT%H:%M:%S.000Z")
