"""The pages for people: a catalogue at `/`, and a page for each repo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from llmstack.reporting import human_size
from llmstack.serving.addresses import Address, PageAddress
from llmstack.serving.shelf import Shelf
from llmstack.serving.values import Repo

Page = Callable[[Shelf, Request], Response]


def handler(path: str, address: Address | None) -> Page | None:
    """Return what renders the page at a path, None where there is none.

    `path` is as it was sent, `address` what it was read as. A page is rendered in a thread: it may read files.
    """
    if path == "/":
        return catalogue
    if isinstance(address, PageAddress):
        return partial(repo_page, address)
    return None


def catalogue(shelf: Shelf, request: Request) -> Response:
    """Return the list of all repos; raises UnavailableError before the first listing."""
    words = request.query_params.get("search", "").casefold()
    rows = "".join(
        f'<li><a href="{_path(repo)}">{escape(repo.repo_id)}</a> {human_size(repo.shown.size)}</li>'
        for repo in shelf.repos()
        if words in repo.repo_id.casefold()
    )
    return HTMLResponse(f"<!doctype html><title>llmstack hub</title><ul>{rows}</ul>")


def repo_page(address: PageAddress, shelf: Shelf, request: Request) -> Response:  # noqa: ARG001 - all pages get it
    """Return a repo's page; raises AnswerError where there is none."""
    repo = shelf.find(address.kind, address.repo_id)
    files = "".join(f"<li>{escape(path)}</li>" for path in shelf.files(repo.shown).files)
    return HTMLResponse(f"<!doctype html><title>{escape(repo.repo_id)}</title><ul>{files}</ul>")


def _path(repo: Repo) -> str:
    return f"{'/datasets' if repo.kind == 'dataset' else ''}/{repo.repo_id}"
