"""The HTTP client, over urllib3: retries, safe redirects, proxies and CA bundles from the environment."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.util import Timeout, parse_url

from llmstack import __version__
from llmstack.errors import IntegrityError, UnavailableError
from llmstack.net.cancel import Cancel, Cancelled
from llmstack.net.connections import pool_classes
from llmstack.net.http_body import Response, discard
from llmstack.net.http_headers import basic_auth, is_header_value, requested_delay
from llmstack.net.network_errors import ConnectionLostError, network_errors
from llmstack.net.parallel_limit import ParallelLimit
from llmstack.net.retry import (
    DEFAULT_RETRY_POLICY,
    FIRST_DELAY,
    RETRIED_STATUS,
    Backoff,
    OnFailure,
    RetryPolicy,
)
from llmstack.net.urls import display_url, proxy_for, redirected

Body = bytes | Iterable[bytes]

CONNECT_TIMEOUT = 20.0
READ_TIMEOUT = 90.0
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Client:
    """Sends requests; safe in threads.

    `note` is called with messages about long retry delays. `timeout` is the number of seconds without a byte after
    which a connection is lost, `retry_wait` the delay before the second try. `cancel` ends all delays and transfers of
    this client with Cancelled.
    """

    def __init__(
        self,
        connections: int = 8,
        note: Callable[[str], None] = lambda _: None,
        *,
        timeout: float = READ_TIMEOUT,
        retry_wait: float = FIRST_DELAY,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
    ) -> None:
        self.cancel = Cancel()
        self.parallel = ParallelLimit()
        self.timeout = timeout
        self._retry_wait = retry_wait
        self._retry_policy = retry_policy
        self._note = note
        self._connections = connections
        self._pools: dict[tuple[str | None, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def backoff(self, tries: int | None = None, on_failure: OnFailure = lambda _error, _retry_after: None) -> Backoff:
        """Return a new Backoff with the retry policy of this client, or with fewer tries; see Backoff."""
        tries, longest = tries or self._retry_policy.tries, self._retry_policy.longest_retry_after
        return Backoff(self.cancel, self._note, tries, self._retry_wait, longest, on_failure)

    def for_cleanup(self, timeout: float) -> Client:
        """Return a client for cleaning up: it ignores this client's cancel, and makes one try."""
        return Client(1, timeout=timeout, retry_policy=RetryPolicy(tries=1))

    def close(self) -> None:
        """Close the idle connections."""
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
        """Send a request once, without following redirects; return the response before its body is read.

        An iterable body is sent with `Transfer-Encoding: chunked`. `timeout` replaces the client's timeout for the
        response. Raises ConnectionLostError, IntegrityError for an invalid header; exceptions from the iterable pass
        through.
        """
        timeout = timeout or self.timeout
        # A header of the caller replaces ours, in any case of its name.
        sent = urllib3.HTTPHeaderDict({"User-Agent": f"llmstack/{__version__}", "Accept-Encoding": "identity"})
        for name, value in (headers or {}).items():
            # Values may come from servers and images. The message must not show them: they may be tokens.
            if not is_header_value(value):
                raise IntegrityError(f"{display_url(url)}: the value for the header {name} has invalid characters")
            sent[name] = value
        with network_errors(url, timeout):
            response = self._pool(url).request(
                method,
                url,
                body=body,
                headers=sent,
                timeout=Timeout(connect=min(CONNECT_TIMEOUT, self.timeout), read=timeout),
                chunked=body is not None and not isinstance(body, bytes),
                preload_content=False,
                redirect=False,
                retries=False,
            )
        # urllib3 keeps only the path.
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
        """Send an idempotent request: follow redirects, retry lost connections and the statuses of RETRIED_STATUS.

        `backoff` counts the tries if the request is one of several of an operation. Authorization is not sent to
        another origin. Returns the last response, whatever its status; raises ConnectionLostError if the last try
        fails.
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
            failed = UnavailableError(f"{display_url(url)}: HTTP {response.status} {response.reason or ''}".rstrip())
            try:
                backoff.wait(failed, requested_delay(response.headers))
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
        # Reading the CA certificates takes a moment, which plain HTTP does not need.
        secure = any(urlsplit(each).scheme == "https" for each in (url, proxy or ""))
        with self._lock:
            if (proxy, secure) not in self._pools:
                self._pools[proxy, secure] = self._make_pool(proxy, tls_context() if secure else None)
            return self._pools[proxy, secure]

    def _make_pool(self, proxy: str | None, tls: ssl.SSLContext | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 32, "maxsize": self._connections, "ssl_context": tls}
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        else:
            username, colon, password = (parse_url(proxy).auth or "").partition(":")
            login = {"Proxy-Authorization": basic_auth(unquote(username), unquote(password))} if colon else None
            manager = urllib3.ProxyManager(proxy, proxy_headers=login, **options)
        manager.pool_classes_by_scheme = pool_classes(self.cancel, self.timeout)
        return manager


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return a TLS context with the CAs of the system and of the environment.

    SSL_CERT_FILE and SSL_CERT_DIR replace the CAs of the system, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE add to them. A
    system without CAs gets those of certifi.
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
                raise UnavailableError(f"{name}={bundle}: cannot read the CA bundle: {error}") from error
    return context
