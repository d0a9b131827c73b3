"""Proxies from the environment: http_proxy, https_proxy, all_proxy and no_proxy, in lower or upper case."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from urllib3.exceptions import LocationValueError
from urllib3.util import parse_url

from llmstack.errors import UsageError


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
