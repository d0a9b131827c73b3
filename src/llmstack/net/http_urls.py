"""URLs: what may be shown of one, and where a redirect or a link may lead."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit, urlunsplit

from llmstack.errors import UnavailableError


def redirected(url: str, location: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Return the target of a redirect and the headers to send there: no Authorization to another origin.

    Raises UnavailableError for a redirect from https to http, or to a URL that is not HTTP.
    """
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
        valid = bool(new.hostname) and new.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UnavailableError(f"{display_url(url)}: redirects to an invalid URL")
    if new.scheme not in {"http", "https"} or (old.scheme == "https" and new.scheme == "http"):
        raise UnavailableError(f"{display_url(url)}: redirects to {display_url(target)}, which is not secure")
    if origin(url) != origin(target):
        headers = {name: value for name, value in headers.items() if name.lower() not in {"authorization", "cookie"}}
    return target, headers


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the origin of a URL: scheme, host and port (RFC 6454, section 4)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def display_url(url: str) -> str:
    """Return a URL without its query, which may hold a signature, and without credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
