"""Which page an address has, and what all pages share: their look, headers, and language."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from llmstack.hub_server.error_answers import RETRY_AFTER, AnswerError
from llmstack.hub_server.pages import repo_list, repo_page
from llmstack.hub_server.pages.language import NAMES, choose_language, translator
from llmstack.hub_server.pages.links import file_url, folder_url, repo_url
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.routes import Address, PageAddress
from llmstack.reporting import human_size

Page = Callable[[Request], Response]

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
# Whatever a README may have smuggled in: nothing runs, and nothing is asked of another host.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
# The errors that have words of their own in each language; of the others only the message is shown.
_EXPLAINED = frozenset({"RepoNotFound", "RevisionNotFound", "EntryNotFound", "NotFound", "Unavailable"})


def _assets() -> dict[str, Path]:
    """Return the files that pages load, by an address that changes with their content; `-` is no repo's name."""
    found = {}
    for path in sorted((_HERE / "static").iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        found[f"/-/{path.stem}.{digest}{path.suffix}"] = path
    return found


_ASSETS = _assets()
_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_JINJA.globals |= {
    "assets": {path.name: url for url, path in _ASSETS.items()},
    "file_url": file_url,
    "folder_url": folder_url,
    "repo_url": repo_url,
}
_JINJA.filters["size"] = human_size


class Site:
    """The pages of a shelf."""

    def __init__(self, shelf: RepoIndex) -> None:
        self._shelf = shelf
        self._readmes = repo_page.Readmes(shelf)

    def find(self, path: str, address: Address | None) -> Page | None:
        """Return what renders the page at a path, None where there is none.

        `path` is as it was sent, `address` what it was read as. A page is rendered in a thread: it may read files.
        """
        if path in _ASSETS:
            return partial(_asset, _ASSETS[path])
        if path.rstrip("/") in repo_list.PATHS:
            return self._catalogue
        if isinstance(address, PageAddress):
            return partial(self._repo, address)
        return None

    def _catalogue(self, request: Request) -> Response:
        """Return the list of repos; raises UnavailableError before the first listing."""
        values = repo_list.values(self._shelf.repos(), request.scope["path"].rstrip("/"), request.query_params)
        return _page(request, "catalogue.html", {**values, "source": self._shelf.name})

    def _repo(self, address: PageAddress, request: Request) -> Response:
        """Return a repo's page; raises AnswerError where there is none, and what reading its files raises."""
        values = repo_page.values(self._shelf, self._readmes, address, request)
        if isinstance(values, Response):
            return values
        return _page(request, "repo.html", {**values, "source": self._shelf.name})


def wants_page(request: Request) -> bool:
    """Tell whether an error is for a person to read: a browser's request, and none for the API."""
    return "text/html" in request.headers.get("Accept", "") and not request.scope["path"].startswith("/api/")


def error_page(request: Request, error: AnswerError, headers: Mapping[str, str]) -> Response:
    """Return an error as a page."""
    kind = error.code if error.code in _EXPLAINED and error.status != 401 else "Other"
    values = {"kind": kind, "status": error.status, "message": error.message, "seconds": RETRY_AFTER, "source": None}
    response = _page(request, "error.html", values, error.status)
    response.headers.update(headers)
    return response


def _page(request: Request, template: str, values: Mapping[str, object], status: int = 200) -> Response:
    language = choose_language(request.headers.get("Accept-Language", ""))
    text = _JINJA.get_template(template).render(values, t=translator(language), lang=NAMES[language])
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": NAMES[language],
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "Vary": "Accept, Accept-Language",
    }
    # An address may hold what is no Unicode.
    return Response(text.encode(errors="backslashreplace"), status, headers)


def _asset(path: Path, _: Request) -> Response:
    headers = {"Content-Type": _TYPES[path.suffix], "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), headers=headers)
