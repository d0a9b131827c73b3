"""Exceptions for failed connections, and the only place that knows those of urllib3 and of sockets.

ConnectionLostError
├── ConnectFailedError       the host name does not resolve, the connection is refused, the URL is invalid
├── ConnectionTimeoutError   connecting, sending or receiving took too long
├── ConnectionClosedError    the server closed or reset the connection
├── InvalidResponseError     the response is not HTTP
└── TlsError                 the TLS handshake failed
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

from urllib3 import exceptions

from llmstack.errors import UnavailableError
from llmstack.net.urls import display_url


class ConnectionLostError(UnavailableError):
    """A request or its response was not transferred completely; a retry may help."""


class ConnectFailedError(ConnectionLostError):
    """No connection could be made."""


class ConnectionTimeoutError(ConnectionLostError):
    """No data was transferred for as long as the timeout."""


class ConnectionClosedError(ConnectionLostError):
    """The server closed or reset the connection before the end of the response."""


class InvalidResponseError(ConnectionLostError):
    """The response is not HTTP."""


class TlsError(ConnectionLostError):
    """The TLS handshake failed."""


@contextlib.contextmanager
def network_errors(url: str, timeout: float | None = None) -> Iterator[None]:
    """Turn exceptions of urllib3 and of sockets into ConnectionLostError; `timeout` is for the message."""
    try:
        yield
    except (exceptions.HTTPError, OSError) as error:
        raise _translated(error, url, timeout) from error


def _translated(error: Exception, url: str, timeout: float | None) -> ConnectionLostError:
    what = f"{display_url(url)}: proxy" if isinstance(error, exceptions.ProxyError) else display_url(url)
    cause = _cause(error)
    connecting = isinstance(
        error, exceptions.ConnectTimeoutError | exceptions.NewConnectionError | exceptions.ProxyError
    )
    if isinstance(error, exceptions.LocationValueError):
        return ConnectFailedError(f"{what}: invalid URL")
    if isinstance(cause, socket.gaierror):
        return ConnectFailedError(f"{what}: the host name does not resolve")
    if isinstance(cause, TimeoutError) or isinstance(error, exceptions.ReadTimeoutError):
        silence = f"no data for {timeout:g} s" if timeout else "no data"
        return ConnectionTimeoutError(f"{what}: {'connection timed out' if connecting else silence}")
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | RemoteDisconnected | IncompleteRead):
        return ConnectionClosedError(f"{what}: the server closed the connection")
    if isinstance(cause, ssl.SSLError):
        return TlsError(f"{what}: TLS: {cause.reason or cause}", hint=_tls_hint(cause))
    if isinstance(cause, HTTPException):
        return InvalidResponseError(f"{what}: the response is not HTTP ({type(cause).__name__})")
    reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    reason = reason[:1].lower() + reason[1:]
    if connecting:
        return ConnectFailedError(f"{what}: {reason}")
    if isinstance(cause, ConnectionError | exceptions.ProtocolError):
        return ConnectionClosedError(f"{what}: {reason}")
    return ConnectionLostError(f"{what}: {reason}")


def _cause(error: BaseException) -> BaseException:
    """Return the exception of a socket or of http.client that urllib3 has wrapped, `error` itself if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError | HTTPException):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def _tls_hint(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "set SSL_CERT_FILE to the CA bundle"
    # Python does not know every reason code of OpenSSL, but prints its text.
    if error.reason == "WRONG_VERSION_NUMBER" or "record layer failure" in str(error):
        return "the server does not use TLS: --plain-http allows plain HTTP"
    return None
