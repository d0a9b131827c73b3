"""An HTTP client over urllib3: proxies and CA bundles from the environment, retries, redirects that leak nothing."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from http.client import RemoteDisconnected
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.util import Timeout, make_headers, parse_url

from llmstack import __version__
from llmstack.errors import IntegrityError, UnavailableError
from llmstack.net.cancel import Cancel, Cancelled
from llmstack.net.connections import pool_classes
from llmstack.net.proxies import proxy_for
from llmstack.net.retry import DEFAULT_RETRY_POLICY, FIRST_WAIT, RETRIED_STATUS, Backoff, RetryPolicy, asked_wait

Response = urllib3.BaseHTTPResponse
Body = bytes | Iterable[bytes]

CONNECT_TIMEOUT = 20.0
READ_TIMEOUT = 90.0
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ConnectionLostError(UnavailableError):
    """A connection could not be made, broke, or fell silent."""


class Client:
    """Sends requests; one for a whole run, safe in threads.

    `note` hears of waits that a person should know about. `timeout` is after how many seconds without a byte a
    connection counts as lost, `retry_wait` how many seconds pass before the second try. `cancel` ends every wait and
    every transfer of this client with Cancelled.
    """

    def __init__(
        self,
        connections: int = 8,
        note: Callable[[str], None] = lambda _: None,
        *,
        timeout: float = READ_TIMEOUT,
        retry_wait: float = FIRST_WAIT,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
    ) -> None:
        self.cancel = Cancel()
        self.timeout = timeout
        self._retry_wait = retry_wait
        self._retry_policy = retry_policy
        self._note = note
        self._connections = connections
        self._pools: dict[tuple[str | None, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def backoff(self) -> Backoff:
        """Return a fresh count of failed tries that tells its waits where this client tells them."""
        tries, longest = self._retry_policy.tries, self._retry_policy.longest_retry_after
        return Backoff(self.cancel, self._note, tries, self._retry_wait, longest)

    def apart(self, timeout: float) -> Client:
        """Return another client for what may still be said when this one is cancelled, briefly and with one try."""
        return Client(1, timeout=timeout, retry_policy=RetryPolicy(tries=1))

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send one request once, without following redirects; the response's body is yet to be read.

        An iterable body goes out with `Transfer-Encoding: chunked`. `timeout` is how long the answer may take where
        that is not the client's. Raises ConnectionLostError; what the iterable raises passes through.
        """
        # A header of the caller's replaces ours, however it is spelled.
        sent = urllib3.HTTPHeaderDict({"User-Agent": f"llmstack/{__version__}", "Accept-Encoding": "identity"})
        for name, value in (headers or {}).items():
            sent[name] = value
        with network_errors(url):
            response = self._pool(url).request(
                method,
                url,
                body=body,
                headers=sent,
                timeout=Timeout(connect=min(CONNECT_TIMEOUT, self.timeout), read=timeout or self.timeout),
                chunked=body is not None and not isinstance(body, bytes),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        # urllib3 keeps the path alone.
        response.url = url
        return response

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        backoff: Backoff | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request that may be repeated; follow redirects, try again on 408, 425, 429, 5xx and lost connections.

        `backoff` counts the tries where the request is a part of something larger. Authorization is never sent to
        another origin than the first. Returns the last response whatever its status; raises ConnectionLostError when
        the connection fails again and again.
        """
        backoff = backoff or self.backoff()
        while True:
            if self.cancel.is_set():
                raise Cancelled("cancelled")
            try:
                response = self._follow(method, url, headers or {}, body, timeout)
            except ConnectionLostError as error:
                backoff.wait(error)
                continue
            if response.status not in RETRIED_STATUS:
                return response
            failed = UnavailableError(f"{display_url(url)} answers {response.status} {response.reason or ''}".rstrip())
            try:
                backoff.wait(failed, asked_wait(response.headers))
            except UnavailableError:
                return response
            except BaseException:
                discard(response)
                raise
            discard(response)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float | None
    ) -> Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self.send(method, url, headers, body, timeout)
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return response
            discard(response)
            url, headers = redirected(url, location, headers)
            if response.status == 303 and method != "HEAD":
                method, body = "GET", None
        raise UnavailableError(f"{display_url(url)}: more than {MAX_REDIRECTS} redirects")

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_for(url)
        # Whoever speaks plain HTTP alone need not wait until all the CAs are read.
        secure = any(urlsplit(address).scheme == "https" for address in (url, proxy or ""))
        with self._lock:
            if (proxy, secure) not in self._pools:
                self._pools[proxy, secure] = self._make_pool(proxy, tls_context() if secure else None)
            return self._pools[proxy, secure]

    def _make_pool(self, proxy: str | None, tls: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 32, "maxsize": self._connections, "ssl_context": tls}
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            auth = parse_url(proxy).auth
            login = make_headers(proxy_basic_auth=auth) if auth else None
            manager = urllib3.ProxyManager(proxy, proxy_headers=login, **options)
        manager.pool_classes_by_scheme = pool_classes(self.cancel, self.timeout)
        return manager


def redirected(url: str, location: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Return where a redirect leads and the headers to send there: no Authorization to another origin.

    Raises UnavailableError for a redirect from https to http, or to something that is not HTTP.
    """
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
        usable = bool(new.hostname) and new.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UnavailableError(f"{display_url(url)} redirects to something that is no address")
    if new.scheme not in {"http", "https"} or (old.scheme == "https" and new.scheme == "http"):
        raise UnavailableError(f"{display_url(url)} redirects to {display_url(target)}, which is not secure")
    if origin(url) != origin(target):
        headers = {name: value for name, value in headers.items() if name.lower() not in {"authorization", "cookie"}}
    return target, headers


def origin(url: str) -> tuple[str, str, int | None]:
    """Return what addresses of one and the same server share: scheme, host and port (RFC 6454, section 4)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def display_url(url: str) -> str:
    """Return a URL as it may be shown: without a query (signatures live there) and without credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def discard(response: Response) -> None:
    """Be done with a response; its connection is kept for the next request where next to nothing is left to read."""
    left = response.length_remaining
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        if left is not None and left <= 64 * 1024:
            response.drain_conn()
    response.close()


def read_limited(response: Response, limit: int) -> bytes:
    """Read a small response whole and be done with it.

    Raises IntegrityError when it is longer than `limit`, ConnectionLostError when it breaks off.
    """
    url = response.geturl() or ""
    data = bytearray()
    with network_errors(url):
        try:
            while chunk := response.read(min(64 * 1024, limit + 1 - len(data))):
                data += chunk
                if len(data) > limit:
                    raise IntegrityError(f"{display_url(url)}: the answer is longer than {limit} bytes")
        finally:
            response.close()
    return bytes(data)


def read_whole(send: Callable[[Backoff], Response], backoff: Backoff, limit: int) -> tuple[Response, bytes]:
    """Return a response with its body, sent for again when it breaks off; raises what `send` and read_limited raise."""
    while True:
        response = send(backoff)
        try:
            return response, read_limited(response, limit)
        except ConnectionLostError as error:
            backoff.wait(error)


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return the TLS settings: the system's CAs (SSL_CERT_FILE, SSL_CERT_DIR), and REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE.

    Falls back to certifi's bundle where the system has none.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        import certifi

        context.load_verify_locations(certifi.where())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(name)
        if bundle and bundle != paths.cafile:
            try:
                context.load_verify_locations(cafile=bundle)
            except OSError as error:
                raise UnavailableError(f"{name}={bundle} cannot be read as a CA bundle: {error}") from error
    return context


@contextlib.contextmanager
def network_errors(url: str) -> Iterator[None]:
    """Turn what urllib3 and sockets raise into ConnectionLostError; the only place that knows those exceptions."""
    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        raise ConnectionLostError(f"{display_url(url)}: {_reason(error)}", hint=_hint(error)) from error
    except OSError as error:
        raise ConnectionLostError(f"{display_url(url)}: {error.strerror or error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "the host name cannot be resolved"
    # A refused connection is a NewConnectionError, which is a kind of ConnectTimeoutError.
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError) and not refused:
        return "no connection came about"
    if isinstance(error, urllib3.exceptions.LocationValueError):
        return "this is not an address that can be used"
    cause = error.__cause__ or error.__context__
    if isinstance(error, urllib3.exceptions.ReadTimeoutError) or isinstance(cause, TimeoutError):
        return "it fell silent"
    if isinstance(cause, RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or cause}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[0].lower() + cause.strerror[1:]
    text = str(error)
    return "the connection broke off" if "IncompleteRead" in text or "Connection broken" in text else text


def _hint(error: BaseException) -> str | None:
    text = f"{error} {error.__cause__}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "name your CA's bundle in SSL_CERT_FILE"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "the server does not speak TLS: --plain-http allows plain HTTP"
    return None
