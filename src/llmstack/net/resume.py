"""Reading a range of something large over HTTP, across connections that break."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator

from llmstack.errors import IntegrityError
from llmstack.net.cancel import Cancelled
from llmstack.net.http_client import Client, ConnectionLostError, Response, discard, network_errors
from llmstack.net.retry import Backoff

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Measured: smaller reads cost more system calls, and larger ones fall out of the processor's cache between being
# received, hashed and sent on.
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
    """Yield the bytes from `start` up to `stop` of an object of `size` bytes, reconnecting where a connection breaks.

    `open_range` sends the GET with the `Range` header that it is given (None: the whole object), its tries counted by
    the Backoff, and returns a 200 or 206 response, or raises. A server that ignores Range costs the skipped bytes
    again. Gives up after `backoff.TRIES` tries in a row that brought nothing.

    Raises IntegrityError when the object's size is not `size`, ConnectionLostError, Cancelled.
    """
    end = size if stop is None else stop
    position = start
    backoff = client.backoff()
    while position < end:
        whole = position == 0 and end == size
        try:
            response = open_range(None if whole else f"bytes={position}-{end - 1}", backoff)
            try:
                for chunk in _body(response, what, size, position, end):
                    if client.cancel.is_set():
                        raise Cancelled("cancelled")
                    position += len(chunk)
                    backoff.progress()
                    yield chunk
            finally:
                discard(response)
            if position < end:
                raise ConnectionLostError(f"{what}: the connection broke off at byte {position} of {size}")
        except ConnectionLostError as error:
            backoff.wait(error)


def _body(response: Response, what: str, size: int, position: int, end: int) -> Generator[bytes, None, None]:
    """Yield the wanted part of one response, checking that it is of the object that was asked for."""
    skip = 0
    length = response.headers.get("Content-Length")
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if not match or int(match[1]) != position:
            raise IntegrityError(f"{what}: the server answered another range than the one asked for")
        if match[3] not in {"*", str(size)}:
            raise IntegrityError(f"{what}: is {match[3]} bytes long, not {size}")
    else:
        skip = position
        if length and length != str(size):
            raise IntegrityError(f"{what}: is {length} bytes long, not {size}")
    wanted = end - position
    with network_errors(response.geturl() or what):
        while wanted and (chunk := response.read(min(_CHUNK, skip + wanted), decode_content=False)):
            if skip:
                dropped = min(skip, len(chunk))
                skip -= dropped
                chunk = chunk[dropped:]
            if chunk:
                wanted -= len(chunk)
                yield chunk
