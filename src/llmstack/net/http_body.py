"""Reading response bodies completely, with a limit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import urllib3

from llmstack.errors import IntegrityError
from llmstack.net.http_urls import display_url
from llmstack.net.network_errors import ConnectionLostError, network_errors
from llmstack.net.retry import Backoff

Response = urllib3.BaseHTTPResponse

_CHUNK = 64 * 1024


def discard(response: Response) -> None:
    """Close a response; keep the connection for the next request if little is left to read."""
    left = response.length_remaining
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        if left is not None and left <= _CHUNK:
            response.drain_conn()
    response.close()


def read_limited(response: Response, limit: int) -> bytes:
    """Read a small response completely and close it.

    Raises IntegrityError if it is longer than `limit`, ConnectionLostError if the connection breaks.
    """
    url = response.geturl() or ""
    data = bytearray()
    with network_errors(url):
        try:
            while chunk := response.read(min(_CHUNK, limit + 1 - len(data))):
                data += chunk
                if len(data) > limit:
                    raise IntegrityError(f"{display_url(url)}: the response is longer than {limit} bytes")
        finally:
            response.close()
    return bytes(data)


def read_with_retry(send: Callable[[Backoff], Response], backoff: Backoff, limit: int) -> tuple[Response, bytes]:
    """Return a response and its body; repeat the request if the connection breaks.

    Raises what `send` and `read_limited` raise.
    """
    while True:
        response = send(backoff)
        try:
            return response, read_limited(response, limit)
        except ConnectionLostError as error:
            backoff.wait(error)
