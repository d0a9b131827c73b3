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
# A path in a URL, without `.` and `..` and characters that need escapes.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)*", re.ASCII)
_PORT = re.compile(r"[1-9]\d{0,4}", re.ASCII)
# Behind several proxies, these name the port of one and the scheme of another.
_DEFAULT_PORTS = {"80", "443"}
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
        is_trusted = self._is_trusted(request.client.host if request.client else "")

        def forwarded(name: str) -> list[str]:
            """Return what each proxy said, that next to the client first."""
            values = request.headers.getlist(f"X-Forwarded-{name}") if is_trusted else []
            return [value.strip() for value in ",".join(values).split(",")]

        scheme = forwarded("Proto")[0].lower()
        host = forwarded("Host")[0] or request.headers.get("Host", "")
        port = forwarded("Port")[0]
        # Each proxy removes a path from what the one before it left.
        prefixes = [part.rstrip("/") for part in forwarded("Prefix")]
        prefix = "".join(prefixes) if all(map(_PREFIX.fullmatch, prefixes)) else ""
        # Invalid values are left out.
        scheme = scheme if scheme in {"http", "https"} else str(request.scope["scheme"])
        host = _with_port(host, port) if _HOST.fullmatch(host) else "HOST:PORT"
        return f"{scheme}://{host}{prefix}"

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


def _with_port(host: str, port: str) -> str:
    """Return a host with a port, unless it has one or the port is invalid or a default."""
    is_needed = not re.search(r":\d+\Z", host.rpartition("]")[2]) and port not in _DEFAULT_PORTS
    return f"{host}:{port}" if is_needed and _PORT.fullmatch(port) and int(port) < 65536 else host


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
