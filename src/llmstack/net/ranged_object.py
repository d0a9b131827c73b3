"""A large object on a server, read by ranges, resuming after lost connections."""

from __future__ import annotations

from collections.abc import Callable, Generator
from urllib.parse import urlsplit

from llmstack.errors import IntegrityError
from llmstack.net.cancel import Cancelled
from llmstack.net.http_body import Response, content_encoding, decoded_chunks, discard, encoded_body
from llmstack.net.http_client import Client
from llmstack.net.http_headers import content_range
from llmstack.net.network_errors import ConnectionClosedError, ConnectionLostError, network_errors
from llmstack.net.retry import Backoff
from llmstack.net.urls import origin

OpenRange = Callable[[str | None, Backoff], Response]

# Measured: smaller reads cost more system calls; larger ones leave the processor's cache before they are hashed and
# sent.
CHUNK = 512 * 1024


class RangedObject:
    """An object of `size` bytes; safe in threads.

    `open_range` sends a GET with the given `Range` header (None: no header), counts its tries with the Backoff, and
    returns a 200 or 206 response or raises. If the server at `home` redirects to another one, further ranges are
    requested there, until that server refuses: signed URLs expire. `accepts_ranges` is what the responses tell.
    """

    def __init__(
        self, client: Client, open_range: OpenRange, what: str, size: int, home: Callable[[], str] | None = None
    ) -> None:
        self.client = client
        self.what = what
        self.size = size
        self.accepts_ranges = True
        self._open_range = open_range
        self._home = home
        self._storage: str | None = None
        self._versions: dict[str, str] = {}

    def read(self, start: int, stop: int, backoff: Backoff, *, skip: bool = True) -> Generator[bytes, None, None]:
        """Yield the bytes from `start` up to `stop`; reconnect if a connection breaks.

        If a server ignores Range, the bytes before the range are skipped; without `skip`, that is an error. Fails after
        as many tries without progress as `backoff` allows. Raises IntegrityError if the object has another size or was
        replaced, ConnectionLostError, Cancelled.
        """
        position = start
        while position < stop:
            complete = position == 0 and stop == self.size
            try:
                response = self._open(None if complete else f"bytes={position}-{stop - 1}", backoff)
                try:
                    if position and response.status == 200 and not skip:
                        self.accepts_ranges = False
                        raise ConnectionLostError(f"{self.what}: the server ignores Range")
                    for chunk in self._body(response, position, stop):
                        if self.client.cancel.is_set():
                            raise Cancelled("cancelled")
                        position += len(chunk)
                        backoff.reset()
                        yield chunk
                finally:
                    discard(response)
                if position < stop:
                    raise ConnectionClosedError(
                        f"{self.what}: the server closed the connection at byte {position} of {self.size}"
                    )
            except ConnectionLostError as error:
                backoff.wait(error)

    def _open(self, byte_range: str | None, backoff: Backoff) -> Response:
        storage = self._storage
        if storage and byte_range:
            response = self.client.request("GET", storage, {"Range": byte_range}, backoff=backoff)
            if response.status == 206:
                return response
            discard(response)
            self._storage = None
        response = self._open_range(byte_range, backoff)
        final = response.geturl()
        if final and self._home and origin(final) != origin(self._home()):
            self._storage = final
        return response

    def _body(self, response: Response, position: int, end: int) -> Generator[bytes, None, None]:
        """Yield the bytes from `position` up to `end` of one response; check its headers."""
        skip, size, what = 0, self.size, self.what
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
            self.accepts_ranges = (
                not (position or encoding) and response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
            )
        if not encoding:
            self._check_version(response)
        left = end - position
        with network_errors(response.geturl() or what, self.client.timeout):
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

    def _check_version(self, response: Response) -> None:
        """Raise IntegrityError if the object is another one than in an earlier response (RFC 9110, section 8.8.3).

        An ETag has a meaning for its own URL only; the query of a signed URL changes with each signature.
        """
        etag = response.headers.get("ETag", "")
        if etag.startswith('"'):
            path = urlsplit(response.geturl() or "")._replace(query="", fragment="").geturl()
            if self._versions.setdefault(path, etag) != etag:
                raise IntegrityError(
                    f"{self.what}: the file was replaced on the server while it was read", hint="rerun the command"
                )


def _chunks(response: Response, size: int) -> Generator[bytes, None, None]:
    """Yield up to `size` bytes of a body as it was sent."""
    while size and (chunk := response.read(min(CHUNK, size), decode_content=False)):
        size -= len(chunk)
        yield chunk
