"""Bodies that a server encodes although the request does not allow it."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import zstandard

from llmstack.errors import IntegrityError
from llmstack.net import Backoff, Client, Response, read_limited, read_resuming
from tests.support.webserver import Response as Answer
from tests.support.webserver import WebServer

DATA = bytes(range(256)) * 1000
GZIP = gzip.compress(DATA)


@pytest.fixture
def server() -> Iterator[tuple[WebServer, list[Answer]]]:
    """A server that sends prepared responses, the last one for all further requests."""
    answers: list[Answer] = []
    server = WebServer(lambda _: answers.pop(0) if len(answers) > 1 else answers[0])
    server.start()
    yield server, answers
    server.stop()


def encoded(body: bytes, encoding: str, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"Content-Encoding": encoding, **headers}, body)


def read_file(server: WebServer, size: int = len(DATA), start: int = 0) -> bytes:
    client = Client(retry_wait=0.001)

    def open_range(byte_range: str | None, backoff: Backoff) -> Response:
        return client.request("GET", server.url, {"Range": byte_range} if byte_range else {}, backoff=backoff)

    return b"".join(read_resuming(client, open_range, what="the file", size=size, start=start))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIP),
        ("GZIP", GZIP),
        ("x-gzip", gzip.compress(DATA[:1000]) + gzip.compress(b"") + gzip.compress(DATA[1000:])),
        ("deflate", zlib.compress(DATA)),
        ("identity", DATA),
        ("", DATA),
    ],
    ids=["gzip", "upper case", "several members", "deflate", "identity", "empty"],
)
def test_gzip_and_deflate_are_decoded(server, encoding: str, body: bytes):
    web, answers = server
    answers.append(encoded(body, encoding))
    assert read_limited(Client().request("GET", web.url), len(DATA)) == DATA
    assert read_file(web) == DATA
    assert read_file(web, start=1234) == DATA[1234:]


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("br", b"\x0b\x00\x80x\x03", "the server encoded the body ('br')"),
        ("zstd", zstandard.compress(DATA), "the server encoded the body ('zstd')"),
        ("gzip, gzip", gzip.compress(GZIP), "the server encoded the body ('gzip, gzip')"),
        ("x" * 5000, b"x", "the server encoded the body ('xxx"),
        ("gzip", DATA[:-1], "the body is not valid gzip"),
        ("gzip", GZIP + b"garbage", "the body is not valid gzip"),
        ("gzip", GZIP[:-9], "the gzip body is truncated"),
    ],
    ids=["br", "zstd", "two", "unknown", "not gzip", "garbage after the end", "truncated"],
)
def test_an_encoded_body_that_cannot_be_decoded_is_an_integrity_error(server, encoding: str, body: bytes, message: str):
    web, answers = server
    answers.append(encoded(body, encoding))
    with pytest.raises(IntegrityError) as raised:
        read_limited(Client().request("GET", web.url), len(DATA) + 1)
    assert str(raised.value).startswith(f"{web.url}: {message}")
    # One byte more than the file, so that the read does not end before the fault.
    with pytest.raises(IntegrityError) as raised:
        read_file(web, len(DATA) + 1)
    assert str(raised.value).startswith(f"the file: {message}")


def test_a_decoded_file_of_another_size_is_an_integrity_error(server):
    web, answers = server
    answers.append(encoded(GZIP, "gzip"))
    with pytest.raises(IntegrityError, match=f"the decoded body has {len(DATA)} bytes, expected {len(DATA) + 1}"):
        read_file(web, len(DATA) + 1)


def test_an_encoded_range_is_an_integrity_error(server):
    web, answers = server
    answers.append(encoded(GZIP[5:], "gzip", 206, **{"Content-Range": f"bytes 5-{len(GZIP) - 1}/{len(GZIP)}"}))
    with pytest.raises(IntegrityError, match="the server encoded the body"):
        read_file(web, start=5)


def test_a_blob_with_a_wrong_content_encoding_is_read_undecoded(server):
    """Some storage services send `Content-Encoding: gzip` with a compressed layer."""
    web, answers = server
    answers += [
        encoded(DATA, "gzip"),
        encoded(DATA[9:], "gzip", 206, **{"Content-Range": f"bytes 9-{len(DATA) - 1}/{len(DATA)}"}),
    ]
    assert read_file(web) == DATA
    assert read_file(web, start=9) == DATA[9:]


def test_a_decompression_bomb_is_not_expanded(server):
    web, answers = server
    answers.append(encoded(gzip.compress(bytes(200_000_000)), "gzip"))
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="longer than 1000000 bytes"):
            read_limited(Client().request("GET", web.url), 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
