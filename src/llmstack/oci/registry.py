"""A registry as an HTTP server: its address, its logins, and what its error answers mean."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urljoin

from llmstack.errors import (
    IntegrityError,
    LlmstackError,
    NotAuthorizedError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from llmstack.net import Backoff, Client, ConnectionLostError, Response, read_limited
from llmstack.net.http_client import Body, discard, origin
from llmstack.net.retry import RETRIED_STATUS
from llmstack.oci.auth import Authorizer, CredentialLookup, login_hint
from llmstack.oci.profiles import profile_of
from llmstack.oci.reference import DOCKER_HUB, is_loopback
from llmstack.oci.spec import parse_object

DOCKER_HUB_API = "registry-1.docker.io"
_MAX_ERROR = 64 * 1024


class Registry:
    """One registry host, spoken to with the credentials that `docker login` left; safe in threads."""

    def __init__(self, host: str, client: Client, lookup: CredentialLookup, *, plain_http: bool = False) -> None:
        self.host = host
        self.client = client
        self._lookup = lookup
        self._plain_http = plain_http
        self._url: str | None = None
        self._authorizer: Authorizer | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL. Raises ConnectionLostError where a registry on this machine answers neither way."""
        return self._open()[0]

    def request(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        backoff: Backoff | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request that may be repeated, logged in where the registry asks for it.

        `path` is relative to the base URL or an absolute URL. `backoff` and `timeout` are Client.request's. Returns the
        last response whatever its status. Raises NotAuthorizedError, UnavailableError.
        """
        backoff = backoff or self.client.backoff()

        def send() -> Response:
            logged_in = {**(headers or {}), **self._authorization(url, scopes, backoff)}
            return self.client.request(method, url, logged_in, body, backoff, timeout)

        url = urljoin(self._open(backoff)[0], path)
        response = send()
        # A storage that the registry has sent us on to may want a login, too: it does not get the registry's.
        ours = response.status == 401 and self._own(response.geturl() or url)
        if ours and self._open()[1].challenged(response, scopes):
            discard(response)
            response = send()
        return response

    def stream(self, method: str, url: str, scopes: tuple[str, ...], body: Body, backoff: Backoff) -> Response:
        """Send a body that cannot be sent twice, once, with a token that was fetched just before where need be."""
        headers = {"Content-Type": "application/octet-stream", **self._authorization(url, scopes, backoff)}
        return self.client.send(method, url, headers, body)

    def give_up(self, url: str, scopes: tuple[str, ...], timeout: float) -> Response:
        """Delete an upload session, with one try of so many seconds, be the client cancelled or not."""
        login = self._open()[1].header(scopes, last_words=timeout) if self._own(url) else {}
        return self.client.send("DELETE", url, login, b"", timeout)

    def error(self, response: Response, what: str) -> LlmstackError:
        """Read an error answer and return what it means for `what`, an operation and its object.

        The codes are those of the distribution spec ("Error Codes").
        """
        code, message = _error_code(response)
        status = response.status
        text = f"{what}: {self.host} answers {status} {message or code or response.reason or ''}".rstrip()
        if status == 401 or code in {"UNAUTHORIZED", "DENIED"} or status == 403:
            logged_in = self._open()[1].logged_in
            hint = "this login may not do that: check the name and its rights" if logged_in else login_hint(self.host)
            return NotAuthorizedError(text, hint=hint)
        if code == "NAME_INVALID":
            return UsageError(text, hint="this registry does not allow that repository name")
        if code in {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"}:
            # Cleaned away by the registry between two of our requests, or damaged there.
            return NotFoundError(text, hint="the registry has lost a blob: run the command again")
        if status == 404:
            missing = profile_of(self.host).missing_hint
            hint = missing or "check the name; some registries want the repository to be created first"
            return NotFoundError(text, hint=hint)
        if code in {"DIGEST_INVALID", "SIZE_INVALID"}:
            return IntegrityError(text)
        if status == 413:
            return LlmstackError(
                text,
                hint="the registry, or a proxy before it, limits the size of a layer: "
                "say how large it may be (max_layer in llmstack.yaml), and carry larger files with --split-large",
            )
        if status in RETRIED_STATUS:
            return UnavailableError(text)
        return LlmstackError(text)

    def _own(self, url: str) -> bool:
        return origin(url) == origin(self.url)

    def _authorization(self, url: str, scopes: tuple[str, ...], backoff: Backoff) -> dict[str, str]:
        return self._open()[1].header(scopes, backoff) if self._own(url) else {}

    def _open(self, backoff: Backoff | None = None) -> tuple[str, Authorizer]:
        with self._lock:
            if self._url is None or self._authorizer is None:
                host = DOCKER_HUB_API if self.host == DOCKER_HUB else self.host
                self._url = f"{self._scheme(host, backoff)}://{host}"
                self._authorizer = Authorizer(self.client, self.host, self._url, self._lookup)
            return self._url, self._authorizer

    def _scheme(self, host: str, backoff: Backoff | None) -> str:
        if self._plain_http:
            return "http"
        if not is_loopback(host):
            return "https"
        # On this machine plain HTTP is implied, but a registry there may speak TLS: it answers plain HTTP with 400.
        try:
            response = self.client.request("GET", f"http://{host}/v2/", backoff=backoff)
        except ConnectionLostError as error:
            if "reset" in str(error) or "closed the connection" in str(error):
                return "https"
            raise
        discard(response)
        return "https" if response.status == 400 else "http"


def _error_code(response: Response) -> tuple[str, str]:
    """Return the first error's code and message, both empty where the answer is not in the registry's form."""
    try:
        errors = parse_object(read_limited(response, _MAX_ERROR), "error").get("errors")
    except LlmstackError:
        return "", ""
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return str(first.get("code", ""))[:60], str(first.get("message", ""))[:300]
