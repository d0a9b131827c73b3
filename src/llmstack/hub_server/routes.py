"""What a request's path asks for. Pure: the raw path is split first and decoded then, so that `%2F` is no slash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import unquote

from llmstack.carried_image.naming import check_repo_id
from llmstack.errors import UsageError
from llmstack.hf.snapshot import RepoType

Verb = Literal["revision", "tree", "paths-info", "refs", "auth-check", "commits"]
_VERBS: tuple[Verb, ...] = get_args(Verb)
_WITH_REVISION = frozenset({"revision", "tree", "paths-info", "commits"})
_KINDS: dict[str, RepoType] = {"models": "model", "datasets": "dataset"}


@dataclass(frozen=True, slots=True)
class Listing:
    """`/api/models` or `/api/datasets`."""

    kind: RepoType


@dataclass(frozen=True, slots=True)
class ApiCall:
    """`/api/models/REPO_ID[/VERB[/REVISION[/PATH]]]`; without a verb, the repo's info at no revision."""

    kind: RepoType
    repo_id: str
    verb: Verb | None = None
    revision: str | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class FileAddress:
    """`/[datasets/]REPO_ID/resolve/REVISION/PATH`."""

    kind: RepoType
    repo_id: str
    revision: str
    path: str


@dataclass(frozen=True, slots=True)
class PageAddress:
    """`/[datasets/]REPO_ID[/tree/REVISION[/PATH]]`: a page of a repo, for people; `blob` is read as `tree`."""

    kind: RepoType
    repo_id: str
    revision: str | None = None
    path: str = ""


Address = Listing | ApiCall | FileAddress | PageAddress


def parse_address(raw_path: str) -> Address | None:
    """Read a request's path as it was sent, without its query; None for what this hub does not have."""
    if len(raw_path) > 1 and raw_path.endswith("/"):
        raw_path = raw_path[:-1]
    segments = [unquote(segment, errors="surrogateescape") for segment in raw_path.lstrip("/").split("/")]
    if segments[0] == "api":
        return _api(segments[1:])
    kind: RepoType = "model"
    if segments[0] in _KINDS:
        kind = _KINDS[segments[0]]
        segments = segments[1:]
    return _file(kind, segments) or _page(kind, segments)


def _api(segments: list[str]) -> Address | None:
    kind = _KINDS.get(segments[0]) if segments else None
    if kind is None:
        return None
    rest = segments[1:]
    if not rest:
        return Listing(kind)
    for length in (1, 2):
        if len(rest) > length and rest[length] in _VERBS:
            return _call(kind, "/".join(rest[:length]), rest[length], rest[length + 1 :])
    return ApiCall(kind, repo_id) if len(rest) <= 2 and (repo_id := _repo_id(rest)) else None


def _call(kind: RepoType, repo_id: str, verb: str, rest: list[str]) -> ApiCall | None:
    known = next(item for item in _VERBS if item == verb)
    if not _repo_id([repo_id]):
        return None
    if known not in _WITH_REVISION:
        return ApiCall(kind, repo_id, known) if not rest else None
    revision, path = _split_revision(rest)
    if not revision or (path and known != "tree"):
        return None
    return ApiCall(kind, repo_id, known, revision, "/".join(path).rstrip("/"))


def _file(kind: RepoType, segments: list[str]) -> FileAddress | None:
    for length in (1, 2):
        if len(segments) > length + 2 and segments[length] == "resolve":
            revision, path = _split_revision(segments[length + 1 :])
            repo_id = _repo_id(segments[:length])
            if repo_id and revision and any(path):
                return FileAddress(kind, repo_id, revision, "/".join(path))
    return None


def _page(kind: RepoType, segments: list[str]) -> PageAddress | None:
    for length in (1, 2):
        if len(segments) > length + 1 and segments[length] in {"tree", "blob"}:
            revision, path = _split_revision(segments[length + 1 :])
            repo_id = _repo_id(segments[:length])
            if repo_id and revision:
                return PageAddress(kind, repo_id, revision, "/".join(path).rstrip("/"))
    repo_id = _repo_id(segments) if len(segments) <= 2 else None
    return PageAddress(kind, repo_id) if repo_id else None


def _split_revision(segments: list[str]) -> tuple[str, list[str]]:
    """Split revision and path; `refs/pr/1` and the like may come with bare slashes, as on the Hub."""
    if len(segments) >= 3 and segments[0] == "refs":
        return "/".join(segments[:3]), segments[3:]
    return (segments[0], segments[1:]) if segments else ("", [])


def _repo_id(segments: list[str]) -> str | None:
    try:
        return check_repo_id("/".join(segments))
    except UsageError:
        return None
