"""The proxies of the environment: http_proxy, https_proxy, all_proxy and no_proxy, in small or capital letters."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from urllib3.exceptions import LocationValueError
from urllib3.util import parse_url

from llmstack.errors import UsageError


def check_proxies() -> None:
    """Raise UsageError if one of the environment's proxies cannot be used."""
    proxies = urllib.request.getproxies()
    for scheme in ("http", "https", "all"):
        _proxy(proxies, scheme)


def proxy_for(url: str) -> str | None:
    """Return the address of the proxy for a URL, None for none; raises UsageError as check_proxies does."""
    parts = urlsplit(url)
    # What is on this machine is not beyond a proxy, for Docker neither; no_proxy may name a host without its port.
    host = parts.hostname
    if not host or _is_this_machine(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    return _proxy(proxies, parts.scheme) or _proxy(proxies, "all")


def _proxy(proxies: Mapping[str, str], scheme: str) -> str | None:
    proxy = proxies.get(scheme)
    if not proxy:
        return None
    address = proxy if "://" in proxy else f"http://{proxy}"
    # The address itself may hold a password.
    variable, kind = f"{scheme}_proxy (or {scheme.upper()}_PROXY)", address.partition("://")[0].lower()
    if kind not in {"http", "https"}:
        hint = "name an HTTP proxy, or unset it: llmstack speaks to no others"
        raise UsageError(f"{variable} names a proxy of the kind {kind}", hint=hint)
    try:
        usable = bool(parse_url(address).host)
    except LocationValueError:
        usable = False
    if not usable:
        raise UsageError(f"{variable} is no address", hint="write it as http://proxy.example:3128")
    return address


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
