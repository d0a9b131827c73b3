"""The paths of the hub, parsed and built.

A raw path is split first and decoded then, so that `%2F` is not a slash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from starlette.requests import Request

from llmstack.carried_image.naming import check_repo_id
from llmstack.errors import UsageError
from llmstack.hf.hub_urls import repo_path
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.repos import Revision

_REPO_TYPES: dict[str, RepoType] = {"models": "model", "datasets": "dataset"}
_FIELDS = {
    "{types}": "(?P<types>models|datasets)",
    # The pages and files of a repo: `/datasets/ID`, `/ID`, and also `/models/ID`.
    "/{types?}": "/(?!api/)(?:(?P<types>models|datasets)/)?",
    "{repo}": "(?P<repo>[^/]+(?:/[^/]+)??)",
    # A URL to clone may end with .git.
    "{repo.git}": r"(?P<repo>[^/]+?(?:/[^/]+?)??)(?:\.git)?",
    # `refs/pr/1` and the like may come with unescaped slashes, as on the Hub.
    "{revision}": "(?P<revision>refs/[^/]+/[^/]+|[^/]+)",
    "/{path?}": "(?:/(?P<path>.+))?",
    "{path}": "(?P<path>.+)",
}
# What a URL may have, and escapes (RFC 3986).
_PATH_CHARACTERS = "/%:@&=+$,~!*'();"
QUERY_CHARACTERS = f"{_PATH_CHARACTERS}?"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names; None and "" for what its template does not have."""

    repo_type: RepoType | None = None
    repo_id: str = ""
    revision: str = ""
    path: str = ""


class Template:
    """A path with fields: `/api/{types}/{repo}/tree/{revision}/{path?}`."""

    def __init__(self, text: str) -> None:
        for field, pattern in _FIELDS.items():
            text = text.replace(field, pattern)
        self._has_repo = "<repo>" in text
        self._pattern = re.compile(text, re.DOTALL)

    def match(self, path: str) -> Target | None:
        """Return what a normalized path names; None where it does not match."""
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        fields = {name: unquote(value or "", errors="surrogateescape") for name, value in match.groupdict().items()}
        repo_type = _REPO_TYPES.get(fields.pop("types", ""), "model" if self._has_repo else None)
        repo_id = fields.pop("repo", "")
        try:
            return Target(repo_type, check_repo_id(repo_id) if self._has_repo else "", **fields)
        except UsageError:
            return None

    def with_repo(self, path: str, repo_id: str) -> str:
        """Return a normalized path that matches, with another repo ID."""
        match = self._pattern.fullmatch(path)
        if match is None:
            raise ValueError(path)
        start, stop = match.span("repo")
        return path[:start] + _quoted(repo_id, "/") + path[stop:]


FILE = Template("/{types?}{repo}/resolve/{revision}/{path}")
RAW = Template("/{types?}{repo}/raw/{revision}/{path}")
CLONE = Template("/{types?}{repo.git}/info/refs")
TREE_PAGE = Template("/{types?}{repo}/tree/{revision}/{path?}")
BLOB_PAGE = Template("/{types?}{repo}/blob/{revision}/{path?}")
REPO_PAGE = Template("/{types?}{repo}")


def normalized(raw_path: str) -> str:
    """Return the one form of a path that every decision is made by."""
    return f"/{raw_path.strip('/')}"


def path_of(request: Request) -> str:
    """Return the normalized raw path of a request."""
    return normalized(request.scope["raw_path"].decode("ascii", "surrogateescape"))


def parse_repo_path(path: str) -> Target | None:
    """Return the repo, revision and file that the path of a page or a file names."""
    matches = (template.match(normalized(path)) for template in (FILE, TREE_PAGE, BLOB_PAGE, REPO_PAGE))
    return next(filter(None, matches), None)


def flag(request: Request, name: str) -> bool:
    """Return a boolean query parameter; old clients send `True`, new ones `true` or `1`."""
    return request.query_params.get(name, "").lower() in {"true", "1"}


def repo_url(repo_type: RepoType, repo_id: str) -> str:
    """Return the path of a repo's page."""
    return f"/{repo_path(repo_id, repo_type)}"


def folder_url(revision: Revision, path: str = "") -> str:
    """Return the path of a folder's page at a revision; an empty `path` is the root."""
    return _url(revision, "tree", revision.name, path)


def blob_url(revision: Revision, path: str) -> str:
    """Return the path of a file's page at a revision."""
    return _url(revision, "blob", revision.name, path)


def file_url(revision: Revision, path: str) -> str:
    """Return the path of a file at a commit."""
    return _url(revision, "resolve", revision.commit, path)


def _url(revision: Revision, verb: str, name: str, path: str) -> str:
    url = f"{repo_url(revision.repo_type, revision.repo_id)}/{verb}/{_quoted(name, '')}"
    return f"{url}/{_quoted(path, '/')}" if path else url


def quoted_path(path: str) -> str:
    """Return a normalized raw path with all characters escaped that a URL cannot have."""
    return quote(path, safe=_PATH_CHARACTERS, errors="surrogateescape")


def _quoted(value: str, safe: str) -> str:
    return quote(value, safe=safe, errors="surrogateescape")
