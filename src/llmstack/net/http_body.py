"""Reading response bodies: decoding, limits, retries."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator

import urllib3

from llmstack.errors import IntegrityError
from llmstack.net.network_errors import ConnectionLostError, network_errors
from llmstack.net.retry import Backoff
from llmstack.net.urls import display_url

Response = urllib3.BaseHTTPResponse

_CHUNK = 64 * 1024


def discard(response: Response) -> None:
    """Close a response; keep the connection for the next request if little is left to read."""
    left = response.length_remaining
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        if left is not None and left <= _CHUNK:
            response.drain_conn()
    response.close()


def content_encoding(response: Response) -> str:
    """Return the Content-Encoding of a response in lower case, empty if there is none."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def decoded_chunks(response: Response, what: str) -> Iterator[bytes]:
    """Yield the body of a response without its Content-Encoding.

    Requests ask for no encoding, but some mirrors and proxies compress anyway. Raises IntegrityError for encodings
    other than gzip and deflate, and for invalid data.
    """
    encoding = content_encoding(response)
    chunks = iter(lambda: response.read(_CHUNK, decode_content=False), b"")
    if not encoding:
        return chunks
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise encoded_body(what, encoding)
    return inflated(chunks, what, encoding)


def encoded_body(what: str, encoding: str) -> IntegrityError:
    """Return the error for a body that cannot be decoded."""
    return IntegrityError(
        f"{what}: the server encoded the body ({encoding[:40]!r}), which the request does not allow",
        hint="turn off compression on the server, or on the proxy in front of it",
    )


def inflated(chunks: Iterator[bytes], what: str, encoding: str) -> Iterator[bytes]:
    """Decode gzip or zlib data, in chunks of limited size."""
    decoder, empty = zlib.decompressobj(wbits=47), True
    try:
        for chunk in chunks:
            data, empty = chunk, False
            while data:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=47)
                yield decoder.decompress(data, _CHUNK)
                data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        while not decoder.eof and (rest := decoder.decompress(b"", _CHUNK)):
            yield rest
    except zlib.error as error:
        raise IntegrityError(f"{what}: the body is not valid {encoding}: {error}") from error
    if not decoder.eof and not empty:
        raise IntegrityError(f"{what}: the {encoding} body is truncated")


def read_limited(response: Response, limit: int) -> bytes:
    """Read a small response completely and close it.

    Raises IntegrityError if it is longer than `limit` or cannot be decoded, ConnectionLostError if the connection
    breaks.
    """
    url = response.geturl() or ""
    data = bytearray()
    with network_errors(url):
        try:
            for chunk in decoded_chunks(response, display_url(url)):
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
