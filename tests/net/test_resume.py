"""Reading across lost connections, against a server that can fail in many ways."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError, LlmstackError
from llmstack.net import Backoff, Cancelled, Client, ConnectionLostError, Response, read_resuming
from llmstack.net.network_errors import ConnectionClosedError
from llmstack.net.retry import TRIES
from tests.support.webserver import Disturbance, Request, WebServer
from tests.support.webserver import Response as Answer

DATA = random.Random(7).randbytes(300_000)
SIZE = len(DATA)
Behavior = Callable[[Request, int, int], Answer]


class RangeServer:
    """Serves DATA; the nth behavior answers the nth request, all later requests are answered correctly."""

    def __init__(self) -> None:
        self.behaviors: list[Behavior] = []
        self.ranges: list[str | None] = []
        self.server = WebServer(self._answer)

    def _answer(self, request: Request) -> Answer:
        requested = request.headers.get("range")
        self.ranges.append(requested)
        start, stop = 0, SIZE
        if requested:
            first, last = requested.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1
        return (self.behaviors.pop(0) if self.behaviors else correct)(request, start, stop)

    def reset(self, *behaviors: Behavior) -> None:
        self.behaviors, self.ranges = list(behaviors), []


def correct(_: Request, start: int, stop: int, disturbance: Disturbance | None = None) -> Answer:
    if (start, stop) == (0, SIZE):
        return Answer(200, {}, DATA, disturbance)
    headers = {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
    return Answer(206, headers, DATA[start:stop], disturbance)


def drops(after: int) -> Behavior:
    return lambda request, start, stop: correct(request, start, stop, Disturbance(drop_after=after))


def complete(_: Request, _start: int, _stop: int) -> Answer:
    return Answer(200, {}, DATA)


def complete_but_drops(after: int) -> Behavior:
    return lambda *_: Answer(200, {}, DATA, Disturbance(drop_after=after))


@pytest.fixture(scope="module")
def server() -> Iterator[RangeServer]:
    server = RangeServer()
    server.server.start()
    yield server
    server.server.stop()


def read(server: RangeServer, start: int = 0, stop: int | None = None, size: int = SIZE) -> bytes:
    client = Client(retry_wait=0.001)

    def open_range(byte_range: str | None, backoff: Backoff) -> Response:
        headers = {"Range": byte_range} if byte_range else {}
        return client.request("GET", server.server.url, headers, backoff=backoff)

    return b"".join(read_resuming(client, open_range, what="the file", size=size, start=start, stop=stop))


def test_without_a_fault_there_is_one_request(server: RangeServer):
    server.reset()
    assert read(server) == DATA
    assert server.ranges == [None]


def test_a_range_is_requested(server: RangeServer):
    server.reset()
    assert read(server, 10, 1000) == DATA[10:1000]
    assert server.ranges == ["bytes=10-999"]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (SIZE, SIZE), (7, 7)])
def test_an_empty_range_needs_no_request(server: RangeServer, start: int, stop: int):
    server.reset()
    assert read(server, start, stop) == b""
    assert server.ranges == []


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 90_000), max_size=8),
    st.integers(0, SIZE - 1).flatmap(lambda start: st.tuples(st.just(start), st.integers(start, SIZE))),
)
def test_reading_resumes_where_a_connection_broke(server: RangeServer, cuts: list[int], span: tuple[int, int]):
    """Each connection transfers at least one byte, so the read succeeds, and no byte is requested twice."""
    start, stop = span
    server.reset(*map(drops, cuts))
    assert read(server, start, stop) == DATA[start:stop]
    position = start
    for requested, cut in zip(server.ranges, [*cuts, SIZE], strict=False):
        assert requested == (None if (position, stop) == (0, SIZE) else f"bytes={position}-{stop - 1}")
        position += cut


@pytest.mark.parametrize("after", [1, 1023, SIZE // 2, SIZE - 1])
def test_a_server_that_ignores_range_costs_the_skipped_bytes(server: RangeServer, after: int):
    server.reset(drops(after), complete)
    assert read(server) == DATA
    server.reset(complete_but_drops(100), complete)
    assert read(server, 50, 5000) == DATA[50:5000]


def test_it_fails_after_a_number_of_tries_without_progress(server: RangeServer):
    server.reset(drops(1000), *[drops(0)] * 50)
    with pytest.raises(ConnectionClosedError) as raised:
        read(server)
    assert str(raised.value) == f"{server.server.url}: the server closed the connection"
    assert raised.value.exit_code == 6
    assert len(server.ranges) == 1 + TRIES - 1


def test_skipped_bytes_are_no_progress(server: RangeServer):
    server.reset(drops(1000), *[complete_but_drops(900)] * 50)
    with pytest.raises(ConnectionLostError):
        read(server)
    assert len(server.ranges) == 1 + TRIES - 1


def test_any_number_of_drops_with_progress_is_allowed(server: RangeServer):
    server.reset(*[drops(SIZE // 40)] * 39)
    assert read(server) == DATA


@pytest.mark.parametrize(
    "behavior",
    [
        lambda *_: Answer(200, {}, DATA[:-1]),
        lambda *_: Answer(200, {}, DATA + b"x"),
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-{SIZE - 2}/{SIZE - 1}"}, DATA[:-1]),
        lambda *_: Answer(206, {"Content-Range": f"bytes 1-{SIZE - 1}/{SIZE}"}, DATA[1:]),
        lambda *_: Answer(206, {"Content-Range": "bytes */*"}, DATA),
        lambda *_: Answer(206, {"Content-Range": "bytes a-b/c"}, DATA),
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-{SIZE - 1}/{'9' * 5000}"}, DATA),
        lambda *_: Answer(200, {"Content-Length": "9" * 5000}, DATA),
        lambda *_: Answer(206, {}, DATA),
    ],
)
def test_another_size_or_range_is_an_integrity_error(server: RangeServer, behavior: Behavior):
    server.reset(behavior)
    with pytest.raises(IntegrityError):
        read(server)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    "behavior",
    [
        # A server may send a shorter range than requested.
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-{SIZE // 2 - 1}/{SIZE}"}, DATA[: SIZE // 2]),
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-9/{SIZE}"}, DATA[:10]),
        lambda *_: Answer(206, {"Content-Range": "bytes 0-9/*"}, DATA[:10]),
    ],
)
def test_a_shorter_range_is_continued(server: RangeServer, behavior: Behavior):
    server.reset(behavior)
    assert read(server) == DATA
    assert len(server.ranges) == 2


def test_a_longer_range_is_cut(server: RangeServer):
    server.reset(lambda *_: Answer(206, {"Content-Range": f"bytes 10-{SIZE - 1}/{SIZE}"}, DATA[10:]))
    assert read(server, 10, 20) == DATA[10:20]


def test_an_exception_from_open_range_passes_through():
    def refuse(_: str | None, __: Backoff) -> Response:
        raise LlmstackError("no")

    with pytest.raises(LlmstackError, match="no"):
        list(read_resuming(Client(), refuse, what="x", size=10))


def test_a_cancel_ends_the_read(server: RangeServer):
    server.reset()
    client = Client()
    chunks = read_resuming(client, lambda *_: client.send("GET", server.server.url), what="x", size=SIZE)
    client.cancel.set()
    with pytest.raises(Cancelled):
        next(chunks)
