"""URLs: what may be shown of one, where a redirect may lead, and which proxy of the environment to use."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit, urlunsplit

from urllib3.exceptions import LocationValueError
from urllib3.util import parse_url

from llmstack.errors import UnavailableError, UsageError


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


def check_proxies() -> None:
    """Raise UsageError if a proxy of the environment cannot be used."""
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https", "all"):
        _proxy(proxies, scheme)


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy for a URL, or None; raises UsageError as check_proxies does."""
    parts = urlsplit(url)
    host = parts.hostname
    # As in Docker, loopback addresses never go through a proxy. no_proxy may name a host without its port.
    if not host or _is_loopback(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    return _proxy(proxies, parts.scheme) or _proxy(proxies, "all")


def _proxy(proxies: Mapping[str, str], scheme: str) -> str | None:
    proxy = proxies.get(scheme)
    if not proxy:
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    # Messages do not show the URL: it may contain a password.
    variable, proxy_scheme = f"{scheme}_proxy (or {scheme.upper()}_PROXY)", url.partition("://")[0].lower()
    if proxy_scheme not in {"http", "https"}:
        hint = "use an http:// or https:// proxy, or unset the variable"
        raise UsageError(f"{variable}: {proxy_scheme} proxies are not supported", hint=hint)
    try:
        valid = bool(parse_url(url).host)
    except LocationValueError:
        valid = False
    if not valid:
        raise UsageError(f"{variable}: invalid URL", hint="for example http://proxy.example:3128")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
