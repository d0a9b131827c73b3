"""The handlers of pages, and what all pages share: layout, headers and language."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2
import yaml
from starlette.requests import Request
from starlette.responses import Response

from llmstack.hub_server.error_answers import RETRY_AFTER, AnswerError, no_route
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.pages import file_page, repo_list, repo_page
from llmstack.hub_server.pages.repo_filters import SIZES
from llmstack.hub_server.paths import Target, blob_url, file_url, folder_url, path_of, repo_url
from llmstack.hub_server.public_url import prefix_of
from llmstack.hub_server.repo_lists import matching
from llmstack.reporting import human_size

_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
# Even if a README passes the sanitizer, no script runs and no other host gets a request.
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
# The errors that have a text in each language; the others show their message only.
_EXPLAINED = frozenset({"RepoNotFound", "RevisionNotFound", "EntryNotFound", "NotFound", "Unavailable"})


def _assets() -> dict[str, Path]:
    """Return the files that pages load, by a path that changes with their content; `-` cannot be a repo ID."""
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
    "blob_url": blob_url,
    "file_url": file_url,
    "folder_url": folder_url,
    "repo_url": repo_url,
}
_JINJA.globals["sizes"] = SIZES
_JINJA.filters["size"] = human_size


def get_repo_list(hub: Hub, request: Request, target: Target) -> Response:
    """Return the list of repos; raises UnavailableError before the first refresh."""
    return _repo_list(hub, request, target, request.query_params.get("author", ""))


def _repo_list(hub: Hub, request: Request, target: Target, author: str) -> Response:
    # `/OWNER` is a path of models, and lists the owner's datasets, too.
    names_type = path_of(request).startswith(("/models/", "/datasets/"))
    repo_type = None if target.repo_id and not names_type else target.repo_type
    repos = hub.repo_index.repos()
    values = repo_list.values(repos, repo_type, author, request.query_params, hub.facts.in_memory)
    return _page(request, "repo_list.html", {**values, "source": hub.repo_index.name})


def get_repo_page(hub: Hub, request: Request, target: Target) -> Response:
    """Return a repo's page, or the list of an owner's repos.

    Raises AnswerError if neither exists, and what reading the repo's files raises.
    """
    try:
        values = repo_page.values(hub, request, target)
    except AnswerError as error:
        owner = target.repo_id if error.code == "RepoNotFound" and "/" not in target.repo_id else ""
        if not owner or target.revision or not matching(hub.repo_index.repos(), search="", author=owner):
            raise
        return _repo_list(hub, request, target, owner)
    if isinstance(values, Response):
        return values
    return _page(request, "repo_page.html", {**values, "source": hub.repo_index.name})


def get_file_page(hub: Hub, request: Request, target: Target) -> Response:
    """Return the page of a file to a browser; the file to others, and the page of a folder.

    Raises AnswerError if the path does not exist, and what reading the repo's files raises.
    """
    values = file_page.values(hub, target) if repo_page.is_browser(request) else None
    if values is None:
        return get_repo_page(hub, request, target)
    return _page(request, "file_page.html", {**values, "source": hub.repo_index.name})


def get_asset(_hub: Hub, request: Request, _target: Target) -> Response:
    """Return a style sheet or an icon."""
    path = _ASSETS.get(path_of(request))
    if path is None:
        raise no_route()
    headers = {"Content-Type": _TYPES[path.suffix], "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), headers=headers)


def error_page(request: Request, error: AnswerError, headers: Mapping[str, str]) -> Response:
    """Return an error as a page."""
    name = error.code if error.code in _EXPLAINED and error.status != 401 else "Other"
    values = {
        "error_name": name,
        "status": error.status,
        "message": error.message,
        "seconds": RETRY_AFTER,
        "source": None,
    }
    response = _page(request, "error.html", values, error.status)
    response.headers.update(headers)
    return response


def _page(request: Request, template: str, values: Mapping[str, object], status: int = 200) -> Response:
    language = choose_language(request.headers.get("Accept-Language", ""))
    # The one script of a page copies its snippets. It runs by a secret of this response, which no README can know.
    nonce = secrets.token_urlsafe(16) if values.get("snippets") else None
    html = _JINJA.get_template(template).render(
        values, t=translator(language), lang=NAMES[language], base=prefix_of(request), nonce=nonce
    )
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": NAMES[language],
        "Content-Security-Policy": f"{_POLICY}; script-src 'nonce-{nonce}'" if nonce else _POLICY,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "Vary": "Accept, Accept-Language",
    }
    # A path may contain lone surrogates.
    return Response(html.encode(errors="backslashreplace"), status, headers)


DEFAULT = "en"
# The values of the `lang` attribute.
NAMES: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
_FOLDER = Path(__file__).parent / "texts"
TEXTS: Mapping[str, Mapping[str, str]] = {
    name: yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in NAMES
}

Translate = Callable[..., str]


def translator(language: str) -> Translate:
    """Return a function that formats the text of a key in a language; it raises KeyError."""
    texts = TEXTS[language]

    def translate(key: str, **fields: object) -> str:
        return texts[key].format(**fields)

    return translate


def choose_language(accepted: str) -> str:
    """Return the available language that an Accept-Language header prefers (RFC 9110, section 12.5.4)."""
    best, best_weight = DEFAULT, 0.0
    for item in accepted.split(","):
        tag, _, parameter = item.partition(";")
        name = tag.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if name in NAMES and weight > best_weight:
            best, best_weight = name, weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
