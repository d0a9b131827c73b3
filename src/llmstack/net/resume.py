"""Reading a range of a large object over HTTP, resuming after lost connections."""

from __future__ import annotations

from collections.abc import Callable, Generator

from llmstack.errors import IntegrityError
from llmstack.net.cancel import Cancelled
from llmstack.net.http_body import Response, discard
from llmstack.net.http_client import Client
from llmstack.net.http_headers import content_range
from llmstack.net.network_errors import ConnectionClosedError, ConnectionLostError, network_errors
from llmstack.net.retry import Backoff

# Measured: smaller reads cost more system calls; larger ones leave the processor's cache before they are hashed and
# sent.
_CHUNK = 512 * 1024


def read_resuming(
    client: Client,
    open_range: Callable[[str | None, Backoff], Response],
    *,
    what: str,
    size: int,
    start: int = 0,
    stop: int | None = None,
) -> Generator[bytes, None, None]:
    """Yield the bytes from `start` up to `stop` of an object of `size` bytes; reconnect if a connection breaks.

    `open_range` sends a GET with the given `Range` header (None: no header), counts its tries with the Backoff, and
    returns a 200 or 206 response or raises. If a server ignores Range, the bytes before the range are skipped. Fails
    after as many tries without progress as the retry policy allows.

    Raises IntegrityError if the object has another size, ConnectionLostError, Cancelled.
    """
    end = size if stop is None else stop
    position = start
    backoff = client.backoff()
    while position < end:
        complete = position == 0 and end == size
        try:
            response = open_range(None if complete else f"bytes={position}-{end - 1}", backoff)
            try:
                for chunk in _body(response, what, size, position, end, client.timeout):
                    if client.cancel.is_set():
                        raise Cancelled("cancelled")
                    position += len(chunk)
                    backoff.reset()
                    yield chunk
            finally:
                discard(response)
            if position < end:
                raise ConnectionClosedError(f"{what}: the server closed the connection at byte {position} of {size}")
        except ConnectionLostError as error:
            backoff.wait(error)


def _body(
    response: Response, what: str, size: int, position: int, end: int, timeout: float
) -> Generator[bytes, None, None]:
    """Yield the bytes from `position` up to `end` of one response; check the sizes in its headers."""
    skip = 0
    length = response.headers.get("Content-Length")
    if response.status == 206:
        sent = content_range(response.headers)
        if sent is None or sent[0] != position:
            raise IntegrityError(f"{what}: the server sent another range than requested")
        if sent[1] not in {None, size}:
            raise IntegrityError(f"{what}: the server has {sent[1]} bytes, expected {size}")
    else:
        skip = position
        if length and length != str(size):
            raise IntegrityError(f"{what}: the server has {length[:20]} bytes, expected {size}")
    left = end - position
    with network_errors(response.geturl() or what, timeout):
        while left and (chunk := response.read(min(_CHUNK, skip + left), decode_content=False)):
            if skip:
                dropped = min(skip, len(chunk))
                skip -= dropped
                chunk = chunk[dropped:]
            if chunk:
                left -= len(chunk)
                yield chunk
