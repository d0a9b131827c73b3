"""The URL at which clients know the hub, also behind reverse proxies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from llmstack.errors import UsageError

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?", re.ASCII)
# A path in a URL, without characters that need escapes.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
# Where a request's URL is kept in its ASGI scope.
_KEY = "llmstack.url"


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """`base_url` is the URL for all clients. Without it, the URL is that of each request.

    The proxies in the `trusted` networks may say what the request was before they forwarded it.
    """

    base_url: str | None = None
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, base_url: str | None, trusted: Iterable[str]) -> PublicUrl:
        """Return the URL for the values of `--base-url` and of the setting `hub_trusted_proxies`; raises UsageError."""
        networks = []
        for text in trusted:
            try:
                networks.append(ip_network(text, strict=False))
            except ValueError as error:
                message = f"hub_trusted_proxies: {text!r} is not an IP address or network"
                raise UsageError(message, hint="as in 10.0.0.7 or 10.0.0.0/8") from error
        return cls(_checked(base_url) if base_url else None, tuple(networks))

    def note(self, request: HTTPConnection) -> None:
        """Note the URL of a request for `endpoint_of` and `prefix_of`."""
        request.scope[_KEY] = self.base_url or self._of(request)

    def _of(self, request: HTTPConnection) -> str:
        headers = request.headers if self._is_trusted(request.client.host if request.client else "") else {}
        forwarded = headers.get("X-Forwarded-Proto", "")
        scheme = forwarded if forwarded in {"http", "https"} else str(request.scope["scheme"])
        host = headers.get("X-Forwarded-Host", "").partition(",")[0].strip() or request.headers.get("Host", "")
        prefix = headers.get("X-Forwarded-Prefix", "").rstrip("/")
        # Invalid values are left out.
        host = host if _HOST.fullmatch(host) else "HOST:PORT"
        return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}"

    def _is_trusted(self, client: str) -> bool:
        try:
            address = ip_address(client.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self.trusted)


def endpoint_of(request: HTTPConnection) -> str:
    """Return the hub's URL as the client knows it, without a slash at the end."""
    return str(request.scope[_KEY])


def prefix_of(request: HTTPConnection) -> str:
    """Return the path of the hub's URL: empty, or one that begins with a slash."""
    return urlsplit(endpoint_of(request)).path


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_host = parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.netloc) and parts.port != 0
        valid = is_host and _PREFIX.fullmatch(parts.path.rstrip("/")) and not parts.query and not parts.fragment
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"--base-url {url}: is not a valid URL", hint="as in https://hub.lab or https://lab.example/hub"
        )
    return url.rstrip("/")
