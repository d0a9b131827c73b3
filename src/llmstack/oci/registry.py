"""A registry as an HTTP server: its URL, authentication, and the meaning of its error responses."""

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
from llmstack.net import Backoff, Client, Response, read_limited
from llmstack.net.http_body import discard
from llmstack.net.http_client import Body
from llmstack.net.network_errors import ConnectionClosedError, InvalidResponseError
from llmstack.net.retry import RETRIED_STATUS
from llmstack.net.urls import origin
from llmstack.oci.auth import Authorizer, CredentialLookup, login_hint
from llmstack.oci.profiles import profile_of
from llmstack.oci.reference import DOCKER_HUB, is_loopback
from llmstack.oci.spec import parse_object

DOCKER_HUB_API = "registry-1.docker.io"
_MAX_ERROR = 64 * 1024


class Registry:
    """One registry host, with the credentials that `docker login` stored; safe in threads."""

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
        """The base URL. Raises ConnectionLostError if a registry on a loopback address uses neither HTTP nor HTTPS."""
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
        """Send an idempotent request; authenticate if the registry asks for it.

        `path` is relative to the base URL or an absolute URL. For `backoff` and `timeout` see Client.request. Returns
        the last response, whatever its status. Raises NotAuthorizedError, UnavailableError.
        """
        backoff = backoff or self.client.backoff()

        def send() -> Response:
            sent = {**(headers or {}), **self._authorization(url, scopes, backoff)}
            return self.client.request(method, url, sent, body, backoff, timeout)

        url = urljoin(self._open(backoff)[0], path)
        response = send()
        # After a redirect the 401 may be from a storage service: it must not get the credentials for the registry.
        own = response.status == 401 and self._is_own(response.geturl() or url)
        if own and self._open()[1].accept_challenge(response, scopes):
            discard(response)
            response = send()
        return response

    def stream(self, method: str, url: str, scopes: tuple[str, ...], body: Body, backoff: Backoff) -> Response:
        """Send a body that cannot be sent twice; fetch a token before if necessary."""
        headers = {"Content-Type": "application/octet-stream", **self._authorization(url, scopes, backoff)}
        return self.client.send(method, url, headers, body)

    def cancel_upload(self, url: str, scopes: tuple[str, ...], timeout: float) -> Response:
        """Delete an upload session, with one try, even if the client is cancelled."""
        headers = self._open()[1].header(scopes, cleanup_timeout=timeout) if self._is_own(url) else {}
        return self.client.send("DELETE", url, headers, b"", timeout)

    def error(self, response: Response, what: str, *, writing: bool = False) -> LlmstackError:
        """Return the exception for an error response to the operation `what` (`<object>: <what failed>`).

        Only a write gets the hint to create the repository. The codes are those of the distribution spec ("Error
        Codes").
        """
        code, message = _error_code(response)
        status = response.status
        text = f"{what}: HTTP {status} {message or code or response.reason or ''}".rstrip()
        if status == 401 or code in {"UNAUTHORIZED", "DENIED"} or status == 403:
            has_credentials = self._open()[1].has_credentials
            denied = "these credentials lack permission: check the repository name and the account's permissions"
            hint = denied if has_credentials else login_hint(self.host)
            return NotAuthorizedError(text, hint=hint)
        if code == "NAME_INVALID":
            return UsageError(text, hint="this registry does not allow that repository name")
        if code in {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"}:
            # The registry deleted it between two requests (garbage collection), or its storage is damaged.
            return NotFoundError(text, hint="the registry lost a blob: rerun to upload it again")
        if status == 404:
            hint = "check the name"
            if writing:
                own = profile_of(self.host).missing_hint
                hint = own or f"{hint}; some registries require the repository to be created first"
            return NotFoundError(text, hint=hint)
        if code in {"DIGEST_INVALID", "SIZE_INVALID"}:
            return IntegrityError(text)
        if status == 413:
            return LlmstackError(
                text,
                hint="the registry, or a proxy in front of it, limits the size of a layer: "
                "set the limit as max_layer in llmstack.yaml, and use --split-large for larger files",
            )
        if status in RETRIED_STATUS:
            return UnavailableError(text)
        return LlmstackError(text)

    def _is_own(self, url: str) -> bool:
        return origin(url) == origin(self.url)

    def _authorization(self, url: str, scopes: tuple[str, ...], backoff: Backoff) -> dict[str, str]:
        return self._open()[1].header(scopes, backoff) if self._is_own(url) else {}

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
        # Loopback implies plain HTTP, but a registry there may use TLS: it answers plain HTTP with 400 or disconnects.
        try:
            response = self.client.request("GET", f"http://{host}/v2/", backoff=backoff)
        except (ConnectionClosedError, InvalidResponseError):
            return "https"
        discard(response)
        return "https" if response.status == 400 else "http"


def _error_code(response: Response) -> tuple[str, str]:
    """Return code and message of the first error, both empty if the response has another format."""
    try:
        errors = parse_object(read_limited(response, _MAX_ERROR), "error").get("errors")
    except LlmstackError:
        return "", ""
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return str(first.get("code", ""))[:60], str(first.get("message", ""))[:300]
