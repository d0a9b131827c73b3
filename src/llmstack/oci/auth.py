"""How registries are logged in to: Basic, and the Bearer token flow of the distribution project's token spec."""

from __future__ import annotations

import base64
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
from llmstack.net import Backoff, Client, ConnectionLostError, Response, display_url, read_whole
from llmstack.oci.spec import parse_object

# The token spec's default; and how long before its end a token is not trusted with a long upload any more.
DEFAULT_LIFETIME = 60.0
MARGIN = 20.0
_MAX_TOKEN_ANSWER = 1024 * 1024
_PART = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))|([A-Za-z][\w-]*)(?=[\s,]|$)')


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login as `docker login` left it: a user and a password, or an identity token."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)


CredentialLookup = Callable[[str], Credentials | None]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """Return the one of a header's challenges to answer: Bearer where it is offered, then Basic, then the first.

        RFC 9110, section 11.6.1; several headers arrive as one.
        """
        found: list[tuple[str, dict[str, str]]] = []
        for part in _PART.finditer(header):
            if part[4]:
                found.append((part[4].lower(), {}))
            elif found:
                found[-1][1][part[1].lower()] = re.sub(r"\\(.)", r"\1", part[2] or "") or part[3] or ""
        offered = {scheme: cls(scheme, parameters) for scheme, parameters in reversed(found)}
        first = cls(*found[0]) if found else cls("", {})
        return offered.get("bearer") or offered.get("basic") or first


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    expires: float


class Authorizer:
    """Answers one registry's challenges and keeps the tokens that it gives, per scope; safe in threads."""

    def __init__(self, client: Client, registry: str, url: str, lookup: CredentialLookup) -> None:
        self._client = client
        self._registry = registry
        self._url = url
        self._lookup = lookup
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._silent: ConnectionLostError | None = None
        self._lock = threading.Lock()

    def header(
        self, scopes: tuple[str, ...], backoff: Backoff | None = None, last_words: float | None = None
    ) -> dict[str, str]:
        """Return the Authorization header for `scopes`, fetching a new token where the old one is about to end.

        `backoff` counts the tries of fetching. With `last_words` it is tried once for so many seconds, be the client
        cancelled or not. Empty before the registry's first challenge. Raises NotAuthorizedError, UnavailableError.
        """
        with self._lock:
            if self._challenge is None:
                return {}
            token = self._tokens.get(scopes)
            if token is None or token.expires < time.monotonic() + MARGIN:
                if last_words is None:
                    token = self._authorize(self._client, self._challenge, scopes, backoff)
                    self._silent = None
                else:
                    token = self._authorize_briefly(self._challenge, scopes, last_words)
                self._tokens[scopes] = token
            return {"Authorization": token.header}

    def challenged(self, response: Response, scopes: tuple[str, ...]) -> bool:
        """Take in a 401's challenge; tell whether asking again with `header(scopes)` may help."""
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        if challenge.scheme not in {"basic", "bearer"}:
            return False
        with self._lock:
            self._challenge = challenge
            self._tokens.pop(scopes, None)
            return challenge.scheme == "bearer" or self._credential() is not None

    def _credential(self) -> Credentials | None:
        if not self._looked_up:
            self._credentials, self._looked_up = self._lookup(self._registry), True
        return self._credentials

    @property
    def logged_in(self) -> bool:
        """Tell whether there are credentials for this registry, once they were needed."""
        return self._credentials is not None

    def _authorize_briefly(self, challenge: Challenge, scopes: tuple[str, ...], seconds: float) -> _Token:
        """Fetch a token while all ends; a token server that has once said nothing is not waited for by each job."""
        if self._silent:
            raise self._silent
        with closing(self._client.apart(seconds)) as client:
            try:
                return self._authorize(client, challenge, scopes, None)
            except ConnectionLostError as error:
                self._silent = error
                raise

    def _authorize(
        self, client: Client, challenge: Challenge, scopes: tuple[str, ...], backoff: Backoff | None
    ) -> _Token:
        credentials = self._credential()
        if challenge.scheme == "basic":
            if credentials is None:
                raise NotAuthorizedError(f"{self._registry} wants a login", hint=login_hint(self._registry))
            return _Token(_basic(credentials), float("inf"))
        realm = check_realm(challenge.parameters.get("realm", ""), self._url)
        service = challenge.parameters.get("service", "")
        if credentials and credentials.identity_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "llmstack"}
            form |= {"scope": " ".join(scopes), "refresh_token": credentials.identity_token}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            send = partial(client.request, "POST", realm, headers, urlencode(form).encode())
        else:
            query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
            headers = {"Authorization": _basic(credentials)} if credentials else {}
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
            send = partial(client.request, "GET", url, headers, None)
        return self._token(*read_whole(send, backoff or client.backoff(), _MAX_TOKEN_ANSWER), realm)

    def _token(self, response: Response, answer: bytes, realm: str) -> _Token:
        if response.status in {400, 401, 403}:
            raise NotAuthorizedError(
                f"{self._registry}: its token server {display_url(realm)} refuses the login ({response.status})",
                hint=login_hint(self._registry),
            )
        if response.status != 200:
            raise UnavailableError(f"{self._registry}: its token server {display_url(realm)} answers {response.status}")
        value = parse_object(answer, "the token server's answer")
        token = value.get("token") or value.get("access_token")
        if not isinstance(token, str):
            raise UnavailableError(f"{self._registry}: its token server {display_url(realm)} answers without a token")
        lifetime = value.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, int | float) and lifetime > 0 else DEFAULT_LIFETIME
        # A token that lives shorter than the margin would be fetched anew for every request.
        return _Token(f"Bearer {token}", time.monotonic() + max(seconds, MARGIN + 10))


def check_realm(realm: str, registry_url: str) -> str:
    """Return a token server's URL if credentials may be sent there; raises UnavailableError.

    As go-containerregistry does: HTTPS unless the registry itself is plain HTTP, and no private or loopback address
    when the registry is a public name, so that a registry cannot point the client into the network it runs in.
    """
    registry = urlsplit(registry_url)
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    # urlsplit passes over spaces and control characters, which no server's address has.
    bare = realm.isprintable() and " " not in realm
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or not bare:
        raise UnavailableError(f"{registry.netloc}: its token server's address is not an http(s) URL")
    if parts.scheme == "http" and registry.scheme != "http":
        raise UnavailableError(f"{registry.netloc}: its token server {display_url(realm)} is not secure (plain HTTP)")
    if _is_private(parts.hostname) and not _is_private(registry.hostname or ""):
        raise UnavailableError(f"{registry.netloc}: its token server {display_url(realm)} is at a private address")
    return realm


def login_hint(registry: str) -> str:
    """Say how to log in to `registry`."""
    return "log in with: docker login" + ("" if registry == "docker.io" else f" {registry}")


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # The resolver takes `127.1` and `2130706433` for addresses, too (inet_aton(3)).
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_private or address.is_loopback or address.is_link_local


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
