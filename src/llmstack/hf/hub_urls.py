"""URLs of the Hugging Face Hub: the one in HF_ENDPOINT, and the pages of repos, written and read.

Importing huggingface_hub with an invalid HF_ENDPOINT fails, so this module checks it and does not import it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from llmstack.errors import UsageError
from llmstack.hf.snapshot import RepoType

ENDPOINT_VARIABLE = "HF_ENDPOINT"
PUBLIC_HUB = "https://huggingface.co"
PUBLIC_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})

_PREFIXES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_REF = re.compile(r"refs/(?:pr|convert)/[^/]+")


@dataclass(frozen=True, slots=True)
class RepoUrl:
    """The repo of a URL; `revision` is None if the URL has none. `repo_id` is not validated."""

    repo_type: RepoType
    repo_id: str
    revision: str | None = None


def check_endpoint(environ: Mapping[str, str]) -> None:
    """Raise UsageError if HF_ENDPOINT is set and not an http(s) URL."""
    value = environ.get(ENDPOINT_VARIABLE)
    if not value:
        return
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        # urlsplit accepts control characters.
        valid = valid and value.isprintable()
    except ValueError:
        valid = False
    if not valid:
        # The value may contain a password, so it is not shown.
        raise UsageError(f"{ENDPOINT_VARIABLE} is not a valid URL", hint=f"write it as {PUBLIC_HUB}")


def repo_path(repo_id: str, repo_type: RepoType) -> str:
    """Return a repo's path on any hub: datasets have a prefix, models have none."""
    return f"datasets/{repo_id}" if repo_type == "dataset" else repo_id


def repo_url(repo_id: str, repo_type: RepoType, endpoint: str = PUBLIC_HUB) -> str:
    """Return the URL of a repo's page."""
    return f"{endpoint.rstrip('/')}/{repo_path(quote(repo_id), repo_type)}"


def parse_repo_url(url: str, endpoint: str | None) -> RepoUrl:
    """Read `hf://[datasets/]OWNER/NAME[@REVISION]`, or a repo's page on huggingface.co or on the hub at `endpoint`.

    Raises UsageError for any other URL, and for the page of a file or a directory.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError("invalid URL") from error
    if parts.scheme == "hf":
        return _parse_path([part for part in f"{parts.netloc}{parts.path}".split("/") if part], pages=False)
    # A password before the @ is not shown.
    host, path = parts.netloc.rpartition("@")[2].lower(), parts.path
    if host not in PUBLIC_HOSTS:
        own = urlsplit(endpoint or "")
        if not host or host != own.netloc.rpartition("@")[2].lower():
            raise UsageError(
                f"{host!r} is not a Hugging Face Hub", hint=f"use a URL of {PUBLIC_HUB} or of the hub in HF_ENDPOINT"
            )
        path = path.removeprefix(own.path.rstrip("/"))
    return _parse_path([part for part in path.split("/") if part], pages=True)


def _parse_path(path: list[str], *, pages: bool) -> RepoUrl:
    """Read `[datasets/]OWNER/NAME`, then `/tree/REVISION` of a page, or `@REVISION`."""
    repo_type = "model"
    if path and path[0] in (_PREFIXES.keys() - {"models"} if pages else _PREFIXES):
        repo_type = _PREFIXES[path.pop(0)]
    if repo_type == "space":
        raise UsageError("Spaces are not supported", hint="llmstack carries models and datasets")
    named: RepoType = "dataset" if repo_type == "dataset" else "model"
    # The keyword follows one or two parts of a repo id, and something follows it: facebook/tree is a repo.
    for position, part in enumerate(path[1:3][: len(path) - 2] if pages else (), start=1):
        if part in {"tree", "commit"}:
            return RepoUrl(named, unquote("/".join(path[:position])), _page_revision(path[position + 1 :]))
        if part in {"blob", "resolve", "raw"}:
            raise UsageError("this is the URL of one file", hint="name the repo, and the file with --include")
    repo_id, at, revision = "/".join(path).partition("@")
    if not pages and (repo_id.count("/") > 1 or ("/" in revision and not _REF.fullmatch(revision))):
        raise UsageError("this is the URL of one file", hint="name the repo, and the file with --include")
    if at and not revision:
        raise UsageError("the URL has no revision after @")
    return RepoUrl(named, unquote(repo_id), unquote(revision) or None)


def _page_revision(path: list[str]) -> str | None:
    revision = unquote("/".join(path))
    if len(path) <= 1 or _REF.fullmatch(revision):
        return revision or None
    raise UsageError("this is the URL of a directory", hint="name the repo, and the directory with --include 'DIR/*'")
