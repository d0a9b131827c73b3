"""Reading across connections that break, byte for byte, against a server that can misbehave in every way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError, LlmstackError
from llmstack.net import Client, ConnectionLostError, Response, read_resuming
from llmstack.net.retry import TRIES, Backoff, Cancelled
from tests.support.webserver import Disturbance, Request, WebServer
from tests.support.webserver import Response as Answer

DATA = random.Random(7).randbytes(300_000)
SIZE = len(DATA)
Behaviour = Callable[[Request, int, int], Answer]


class RangeServer:
    """Serves DATA; the nth request is answered by the nth behaviour, all later ones as they should be."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = []
        self.ranges: list[str | None] = []
        self.server = WebServer(self._answer)

    def _answer(self, request: Request) -> Answer:
        wanted = request.headers.get("range")
        self.ranges.append(wanted)
        start, stop = 0, SIZE
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1
        return (self.behaviours.pop(0) if self.behaviours else right)(request, start, stop)

    def reset(self, *behaviours: Behaviour) -> None:
        self.behaviours, self.ranges = list(behaviours), []


def right(_: Request, start: int, stop: int, disturbance: Disturbance | None = None) -> Answer:
    if (start, stop) == (0, SIZE):
        return Answer(200, {}, DATA, disturbance)
    headers = {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"}
    return Answer(206, headers, DATA[start:stop], disturbance)


def drops(after: int) -> Behaviour:
    return lambda request, start, stop: right(request, start, stop, Disturbance(drop_after=after))


def whole(_: Request, _start: int, _stop: int) -> Answer:
    return Answer(200, {}, DATA)


def whole_but_drops(after: int) -> Behaviour:
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


def test_without_a_fault_there_is_one_request_for_all(server: RangeServer):
    server.reset()
    assert read(server) == DATA
    assert server.ranges == [None]


def test_a_part_is_asked_for_by_range(server: RangeServer):
    server.reset()
    assert read(server, 10, 1000) == DATA[10:1000]
    assert server.ranges == ["bytes=10-999"]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (SIZE, SIZE), (7, 7)])
def test_nothing_is_not_asked_for(server: RangeServer, start: int, stop: int):
    server.reset()
    assert read(server, start, stop) == b""
    assert server.ranges == []


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 90_000), max_size=8),
    st.integers(0, SIZE - 1).flatmap(lambda start: st.tuples(st.just(start), st.integers(start, SIZE))),
)
def test_dropped_connections_go_on_where_they_broke(server: RangeServer, cuts: list[int], span: tuple[int, int]):
    """Each connection brings at least a byte, so however many break, the bytes come, and none comes twice."""
    start, stop = span
    server.reset(*map(drops, cuts))
    assert read(server, start, stop) == DATA[start:stop]
    position = start
    for wanted, cut in zip(server.ranges, [*cuts, SIZE], strict=False):
        assert wanted == (None if (position, stop) == (0, SIZE) else f"bytes={position}-{stop - 1}")
        position += cut


@pytest.mark.parametrize("after", [1, 1023, SIZE // 2, SIZE - 1])
def test_a_server_that_ignores_range_costs_the_skipped_bytes(server: RangeServer, after: int):
    server.reset(drops(after), whole)
    assert read(server) == DATA
    server.reset(whole_but_drops(100), whole)
    assert read(server, 50, 5000) == DATA[50:5000]


def test_without_progress_it_gives_up_after_a_number_of_tries(server: RangeServer):
    server.reset(drops(1000), *[drops(0)] * 50)
    with pytest.raises(ConnectionLostError) as raised:
        read(server)
    assert str(raised.value) == f"{server.server.url}: the connection broke off"
    assert raised.value.exit_code == 6
    assert len(server.ranges) == 1 + TRIES - 1


def test_a_server_that_ignores_range_and_breaks_before_the_place_makes_no_progress(server: RangeServer):
    server.reset(drops(1000), *[whole_but_drops(900)] * 50)
    with pytest.raises(ConnectionLostError):
        read(server)
    assert len(server.ranges) == 1 + TRIES - 1


def test_many_drops_with_progress_between_are_survived(server: RangeServer):
    server.reset(*[drops(SIZE // 40)] * 39)
    assert read(server) == DATA


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda *_: Answer(200, {}, DATA[:-1]),
        lambda *_: Answer(200, {}, DATA + b"x"),
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-{SIZE - 2}/{SIZE - 1}"}, DATA[:-1]),
        lambda *_: Answer(206, {"Content-Range": f"bytes 1-{SIZE - 1}/{SIZE}"}, DATA[1:]),
        lambda *_: Answer(206, {"Content-Range": "bytes */*"}, DATA),
        lambda *_: Answer(206, {"Content-Range": "bytes a-b/c"}, DATA),
        lambda *_: Answer(206, {}, DATA),
    ],
)
def test_another_size_or_range_is_an_integrity_error(server: RangeServer, behaviour: Behaviour):
    server.reset(behaviour)
    with pytest.raises(IntegrityError):
        read(server)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        # A range that is cut short by the server on purpose.
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-{SIZE // 2 - 1}/{SIZE}"}, DATA[: SIZE // 2]),
        lambda *_: Answer(206, {"Content-Range": f"bytes 0-9/{SIZE}"}, DATA[:10]),
        lambda *_: Answer(206, {"Content-Range": "bytes 0-9/*"}, DATA[:10]),
    ],
)
def test_less_than_was_asked_for_is_gone_on_from(server: RangeServer, behaviour: Behaviour):
    server.reset(behaviour)
    assert read(server) == DATA
    assert len(server.ranges) == 2


def test_more_than_was_asked_for_is_not_taken(server: RangeServer):
    server.reset(lambda *_: Answer(206, {"Content-Range": f"bytes 10-{SIZE - 1}/{SIZE}"}, DATA[10:]))
    assert read(server, 10, 20) == DATA[10:20]


def test_an_error_of_opening_passes_through():
    def refuse(_: str | None, __: Backoff) -> Response:
        raise LlmstackError("no")

    with pytest.raises(LlmstackError, match="no"):
        list(read_resuming(Client(), refuse, what="x", size=10))


def test_a_cancel_ends_it(server: RangeServer):
    server.reset()
    client = Client()
    chunks = read_resuming(client, lambda *_: client.send("GET", server.server.url), what="x", size=SIZE)
    client.cancel.set()
    with pytest.raises(Cancelled):
        next(chunks)
