"""Reading a range of a large object over HTTP, resuming after lost connections."""

from __future__ import annotations

from collections.abc import Callable, Generator

from llmstack.errors import IntegrityError
from llmstack.net.cancel import Cancelled
from llmstack.net.http_body import Response, content_encoding, decoded_chunks, discard, encoded_body
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
    encoding, length = content_encoding(response), response.headers.get("Content-Length")
    if response.status == 206:
        sent = content_range(response.headers)
        if sent is None or sent[0] != position:
            raise IntegrityError(f"{what}: the server sent another range than requested")
        if sent[1] != size and encoding:
            raise encoded_body(what, encoding)
        if sent[1] not in {None, size}:
            raise IntegrityError(f"{what}: the server has {sent[1]} bytes, expected {size}")
        encoding = ""
    else:
        skip = position
        # A body of the right size is the object itself, whatever its Content-Encoding says.
        encoding = "" if length == str(size) else encoding
        if length and length != str(size) and not encoding:
            raise IntegrityError(f"{what}: the server has {length[:20]} bytes, expected {size}")
    left = end - position
    with network_errors(response.geturl() or what, timeout):
        for chunk in decoded_chunks(response, what) if encoding else _chunks(response, skip + left):
            kept = chunk[skip : skip + left]
            skip -= min(skip, len(chunk))
            left -= len(kept)
            if kept:
                yield kept
            if not left:
                return
    if encoding:
        raise IntegrityError(f"{what}: the decoded body has {end - left} bytes, expected {size}")


def _chunks(response: Response, size: int) -> Generator[bytes, None, None]:
    """Yield up to `size` bytes of a body as it was sent."""
    while size and (chunk := response.read(min(_CHUNK, size), decode_content=False)):
        size -= len(chunk)
        yield chunk
