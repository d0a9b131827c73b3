"""A repo's page at one revision: facts, what to copy, the files of one folder, and the README."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from llmstack.errors import LlmstackError
from llmstack.hub_server.error_answers import entry_not_found
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.model_card import MAX_README, README, card_of, split_card
from llmstack.hub_server.pages.folders import crumbs, entries_of
from llmstack.hub_server.pages.links import file_url, folder_url
from llmstack.hub_server.pages.readme_html import render
from llmstack.hub_server.pages.repo_list import page_number
from llmstack.hub_server.pages.snippets import snippets
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Files, Repo, Revision
from llmstack.hub_server.routes import PageAddress
from llmstack.hub_server.scheme import scheme_of
from llmstack.oci.reference import Digest

ENTRIES = 500
MAX_TAGS = 20
# Rendered READMEs, in characters.
_KEPT = 16 * 1024 * 1024
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?", re.ASCII)


class Readmes:
    """READMEs as HTML, kept by the image that they are of; safe in threads."""

    def __init__(self, shelf: RepoIndex) -> None:
        self._shelf = shelf
        self._kept: Cache[tuple[Digest, str], str] = Cache(_KEPT, len)

    def html(self, revision: Revision, files: Files) -> Markup | None:
        """Return a revision's README; None where there is none, it is too long, or it cannot be read now."""
        try:
            data = self._shelf.read(revision, README, MAX_README)
        except LlmstackError:
            return None
        if data is None:
            return None
        text = split_card(data.decode(errors="replace"))
        # One image may be there as several revisions, whose links differ.
        key = (revision.digest, folder_url(revision))
        return Markup(self._kept.get(key, lambda: render(text, revision, files)))  # noqa: S704 - that is the sanitiser


def values(shelf: RepoIndex, readmes: Readmes, address: PageAddress, request: Request) -> dict[str, object] | Response:
    """Return what a repo's page shows, or the way to a file that is asked for as if it were a folder.

    Raises AnswerError where there is no such thing, and what reading the repo's files raises.
    """
    repo = shelf.find(address.kind, address.repo_id)
    revision = shelf.revision(repo.kind, repo.repo_id, address.revision) if address.revision else repo.shown
    files = shelf.files(revision)
    if address.path in files.files:
        return RedirectResponse(file_url(revision, address.path))
    entries = entries_of(files, address.path)
    if address.path and not entries:
        raise entry_not_found(revision.repo_id, address.path, revision.commit)
    last = max(1, -(-len(entries) // ENTRIES))
    number = min(page_number(request.query_params), last)
    card = card_of(shelf, revision)
    locked = is_locked(revision, files)
    token = "Authorization" in request.headers
    has_readme = not address.path and README in files.files
    return {
        "repo": repo,
        "revision": revision,
        "locked": locked,
        "is_former": revision not in repo.revisions,
        "facts": _facts(card),
        "count": len(files.files) if files.files else revision.files,
        "folder": address.path,
        "crumbs": crumbs(address.path),
        "entries": entries[(number - 1) * ENTRIES : number * ENTRIES],
        "page": number,
        "last": last,
        "previous_url": f"?page={number - 1}#files" if number > 1 else None,
        "next_url": f"?page={number + 1}#files" if number < last else None,
        "snippets": []
        if address.path
        else snippets(revision, files, card, None if locked else endpoint_of(request), token=token),
        "has_readme": has_readme,
        "readme": readmes.html(revision, files) if has_readme else None,
        "owner": _owner(repo),
    }


def is_locked(revision: Revision, files: Files) -> bool:
    """Tell whether a revision has files in compressed layers, which clients cannot load from here."""
    compressed = {digest for digest, layer in files.layers.items() if layer.compressed}
    in_them = (not compressed.isdisjoint(file.layers) for file in files.files.values())
    return revision.needs_extract or (bool(compressed) and any(in_them))


def endpoint_of(request: Request) -> str:
    """Return the address that the hub was reached at, as the browser named it; a name that is none is left out."""
    host = request.headers.get("Host", "")
    return f"{scheme_of(request)}://{host if _HOST.fullmatch(host) else 'HOST:PORT'}"


def _facts(card: Mapping[str, Any]) -> dict[str, object]:
    tags = card.get("tags")
    return {
        "task": card["pipeline_tag"] if isinstance(card.get("pipeline_tag"), str) else None,
        "library": card["library_name"] if isinstance(card.get("library_name"), str) else None,
        "tags": [str(tag) for tag in tags[:MAX_TAGS]] if isinstance(tags, list) else [],
    }


def _owner(repo: Repo) -> str:
    return repo.repo_id.partition("/")[0] if "/" in repo.repo_id else ""
