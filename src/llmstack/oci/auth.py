"""Authentication with registries: Basic, and the Bearer tokens of the distribution project's token specification."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlencode, urlsplit

from llmstack.errors import NotAuthorizedError, UnavailableError
from llmstack.net import Backoff, Client, ConnectionLostError, Response, display_url, read_with_retry
from llmstack.net.http_headers import basic_auth, is_header_value
from llmstack.oci.spec import parse_object

# The default of the token specification. A token with less than MARGIN left is not used for a long upload.
DEFAULT_LIFETIME = 60.0
MARGIN = 20.0
_MAX_TOKEN_RESPONSE = 1024 * 1024
# A scheme, or a parameter with a quoted or an unquoted value; possessive quantifiers keep it linear.
_PART = re.compile(r'([^\s,="]++)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^\s,]*+)))?')


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials that `docker login` stored: a user and a password, or an identity token."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)


CredentialLookup = Callable[[str], Credentials | None]


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge of a WWW-Authenticate header: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """Return one challenge of a header: Bearer if offered, else Basic, else the first.

        RFC 9110, section 11.6.1; the values of several headers are joined.
        """
        found: list[tuple[str, dict[str, str]]] = []
        for part in _PART.finditer(header):
            name, quoted, value = part.groups()
            if quoted is None and value is None:
                found.append((name.lower(), {}))
            elif found:
                found[-1][1][name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else value
        offered = {scheme: cls(scheme, parameters) for scheme, parameters in reversed(found)}
        first = cls(*found[0]) if found else cls("", {})
        return offered.get("bearer") or offered.get("basic") or first


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    expires: float


class Authorizer:
    """Gets Authorization headers for one registry, and keeps its tokens per scope; safe in threads."""

    def __init__(self, client: Client, registry: str, url: str, lookup: CredentialLookup) -> None:
        self._client = client
        self._registry = registry
        self._url = url
        self._lookup = lookup
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._cleanup_failure: ConnectionLostError | None = None
        self._lock = threading.Lock()

    def header(
        self, scopes: tuple[str, ...], backoff: Backoff | None = None, cleanup_timeout: float | None = None
    ) -> dict[str, str]:
        """Return the Authorization header for `scopes`; fetch a token if there is none or it expires soon.

        `backoff` counts the tries. With `cleanup_timeout` a token is requested once, with this timeout, even if the
        client is cancelled. Returns no header before the first challenge. Raises NotAuthorizedError, UnavailableError.
        """
        with self._lock:
            if self._challenge is None:
                return {}
            token = self._tokens.get(scopes)
            if token is None or token.expires < time.monotonic() + MARGIN:
                if cleanup_timeout is None:
                    token = self._authorize(self._client, self._challenge, scopes, backoff)
                    self._cleanup_failure = None
                else:
                    token = self._authorize_for_cleanup(self._challenge, scopes, cleanup_timeout)
                self._tokens[scopes] = token
            return {"Authorization": token.header}

    def accept_challenge(self, response: Response, scopes: tuple[str, ...]) -> bool:
        """Store the challenge of a 401 response; tell whether a retry with `header(scopes)` may succeed."""
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        if challenge.scheme not in {"basic", "bearer"}:
            return False
        with self._lock:
            if challenge.scheme == "basic" and self._credential() is None:
                # The registry may require authentication for this request only, for example to delete.
                return False
            self._challenge = challenge
            self._tokens.pop(scopes, None)
            return True

    def _credential(self) -> Credentials | None:
        if not self._looked_up:
            self._credentials, self._looked_up = self._lookup(self._registry), True
        return self._credentials

    @property
    def has_credentials(self) -> bool:
        """Tell whether credentials for this registry were found."""
        return self._credentials is not None

    def _authorize_for_cleanup(self, challenge: Challenge, scopes: tuple[str, ...], timeout: float) -> _Token:
        """Fetch a token after a cancel; only the first job waits for a token server that does not answer."""
        if self._cleanup_failure:
            raise self._cleanup_failure
        with closing(self._client.for_cleanup(timeout)) as client:
            try:
                return self._authorize(client, challenge, scopes, None)
            except ConnectionLostError as error:
                self._cleanup_failure = error
                raise

    def _authorize(
        self, client: Client, challenge: Challenge, scopes: tuple[str, ...], backoff: Backoff | None
    ) -> _Token:
        credentials = self._credential()
        if challenge.scheme == "basic":
            if credentials is None:
                raise NotAuthorizedError(f"{self._registry}: requires authentication", hint=login_hint(self._registry))
            return _Token(_basic_auth(credentials), float("inf"))
        realm = check_realm(challenge.parameters.get("realm", ""), self._url)
        service = challenge.parameters.get("service", "")
        if credentials and credentials.identity_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "llmstack"}
            form |= {"scope": " ".join(scopes), "refresh_token": credentials.identity_token}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            send = partial(client.request, "POST", realm, headers, urlencode(form, errors="surrogatepass").encode())
        else:
            query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
            headers = {"Authorization": _basic_auth(credentials)} if credentials else {}
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
            send = partial(client.request, "GET", url, headers, None)
        return self._token(*read_with_retry(send, backoff or client.backoff(), _MAX_TOKEN_RESPONSE), realm)

    def _token(self, response: Response, body: bytes, realm: str) -> _Token:
        server = f"{self._registry}: token server {display_url(realm)}"
        if response.status in {400, 401, 403}:
            raise NotAuthorizedError(
                f"{server}: these credentials are not accepted: HTTP {response.status}",
                hint=login_hint(self._registry),
            )
        if response.status != 200:
            raise UnavailableError(f"{server}: HTTP {response.status}")
        value = parse_object(body, f"{server}: the response")
        token = value.get("token") or value.get("access_token")
        if not isinstance(token, str):
            raise UnavailableError(f"{server}: the response has no token")
        # The message must not show the token.
        if not is_header_value(token):
            raise UnavailableError(f"{server}: the token has invalid characters")
        lifetime = value.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, int | float) and lifetime > 0 else DEFAULT_LIFETIME
        # A token that expires within the margin would be fetched again for every request.
        return _Token(f"Bearer {token}", time.monotonic() + max(seconds, MARGIN + 10))


def check_realm(realm: str, registry_url: str) -> str:
    """Return the URL of a token server if credentials may be sent to it; raises UnavailableError.

    The rules are those of go-containerregistry: HTTPS unless the registry uses plain HTTP, and no private or loopback
    address unless the registry has one, so that a registry cannot direct the client into an internal network.
    """
    registry = urlsplit(registry_url)
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    what = f"{registry.netloc}: token server"
    # urlsplit accepts spaces and control characters.
    clean = realm.isprintable() and " " not in realm
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or not clean:
        raise UnavailableError(f"{what}: invalid URL")
    if parts.scheme == "http" and registry.scheme != "http":
        raise UnavailableError(f"{what} {display_url(realm)}: not secure (plain HTTP)")
    if _is_private(parts.hostname) and not _is_private(registry.hostname or ""):
        raise UnavailableError(f"{what} {display_url(realm)}: has a private address")
    return realm


def login_hint(registry: str) -> str:
    """Return the hint that names the login command for `registry`."""
    return "log in with: docker login" + ("" if registry == "docker.io" else f" {registry}")


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # The resolver accepts addresses like `127.1` and `2130706433` too (inet_aton(3)).
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_private or address.is_loopback or address.is_link_local


def _basic_auth(credentials: Credentials) -> str:
    return basic_auth(credentials.username, credentials.password)
