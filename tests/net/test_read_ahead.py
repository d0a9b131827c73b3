"""Reading one large object over several connections, from servers that fail in many ways."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from llmstack.errors import IntegrityError, UnavailableError
from llmstack.net import Backoff, Cancelled, Client, Response, read_resuming
from llmstack.net.http_body import discard
from llmstack.net.parallel_limit import READ_AHEAD, ParallelLimit
from tests.support.webserver import Disturbance, Request, WebServer
from tests.support.webserver import Response as Answer

pytestmark = pytest.mark.slow

SIZE = 48_000_000
DATA = random.Random(8).randbytes(SIZE)
# Slow enough that a reader waits for it.
RATE = 40_000_000
# Longer than any correct run takes.
DEADLINE = 30
Behavior = Callable[[int, int, int], Answer | None]


class RangeServer:
    """Serves DATA; `behavior(number, start, stop)` may replace the answer to a request."""

    def __init__(self) -> None:
        self.server = WebServer(self._answer)
        self.reset()

    def reset(self, behavior: Behavior = lambda *_: None) -> None:
        self.behavior = behavior
        self.ranges: list[tuple[int, int]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()

    def _answer(self, request: Request) -> Answer:
        start, stop = 0, SIZE
        if requested := request.headers.get("range"):
            first, last = requested.removeprefix("bytes=").split("-")
            start, stop = int(first), int(last) + 1
        with self._lock:
            number = len(self.ranges)
            self.ranges.append((start, stop))
            self.times.append(time.monotonic())
        return self.behavior(number, start, stop) or correct(start, stop)


def correct(start: int, stop: int, *, etag: str = '"1"', **what: int | None) -> Answer:
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    if (start, stop) != (0, SIZE):
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{SIZE}"
    status = 206 if "Content-Range" in headers else 200
    return Answer(status, headers, DATA[start:stop], Disturbance(**{"bytes_per_second": RATE, **what}))


@pytest.fixture(scope="module")
def started() -> Iterator[RangeServer]:
    server = RangeServer()
    server.server.start()
    yield server
    server.server.stop()


@pytest.fixture
def server(started: RangeServer) -> RangeServer:
    started.reset()
    return started


@pytest.fixture
def client() -> Iterator[Client]:
    """A client that has found out before that eight connections are faster."""
    with contextlib.closing(Client(connections=20, retry_wait=0.01, timeout=2)) as client:
        client.parallel = ParallelLimit(8)
        yield client


def chunks(server: RangeServer, client: Client) -> Iterator[bytes]:
    def open_range(byte_range: str | None, backoff: Backoff) -> Response:
        headers = {"Range": byte_range} if byte_range else {}
        response = client.request("GET", server.server.url, headers, backoff=backoff)
        if response.status not in {200, 206}:
            discard(response)
            raise UnavailableError(f"the file: HTTP {response.status}")
        return response

    return read_resuming(client, open_range, what="the file", size=SIZE)


def read(server: RangeServer, client: Client) -> bytes:
    data = b"".join(chunks(server, client))
    assert client.parallel.reserve(READ_AHEAD), "memory is still reserved"
    client.parallel.release(READ_AHEAD)
    return data


def test_every_byte_is_requested_once(server: RangeServer, client: Client):
    assert read(server, client) == DATA
    assert len(server.ranges) >= 8
    ends = [0, *sorted(stop for _, stop in server.ranges)]
    assert sorted(start for start, _ in server.ranges) == ends[:-1]


def test_a_fast_server_gets_one_request(server: RangeServer):
    server.reset(lambda _, start, stop: correct(start, stop, bytes_per_second=None))
    assert read(server, Client()) == DATA
    assert server.ranges == [(0, SIZE)]


def test_a_slow_connection_gets_company(server: RangeServer):
    """One connection would take four seconds."""
    server.reset(lambda _, start, stop: correct(start, stop, bytes_per_second=SIZE // 4))
    began = time.monotonic()
    assert read(server, Client()) == DATA
    assert len(server.ranges) > 3
    assert time.monotonic() - began < 3.5


def test_connections_that_break_are_continued(server: RangeServer, client: Client):
    server.reset(lambda number, start, stop: correct(start, stop, drop_after=500_000) if number % 2 else None)
    assert read(server, client) == DATA


def test_connections_that_stall_are_continued(server: RangeServer, client: Client):
    server.reset(lambda number, start, stop: correct(start, stop, stall_after=500_000) if number in {2, 3} else None)
    assert read(server, client) == DATA


def test_a_server_that_ignores_range_gets_one_connection(server: RangeServer, client: Client):
    server.reset(lambda *_: Answer(200, {}, DATA))
    assert read(server, client) == DATA
    assert len(server.ranges) < 12


def test_a_server_that_claims_to_accept_ranges(server: RangeServer, client: Client):
    server.reset(lambda *_: Answer(200, {"Accept-Ranges": "bytes"}, DATA, Disturbance(bytes_per_second=10 * RATE)))
    assert read(server, client) == DATA
    assert len(server.ranges) < 12


def test_a_server_that_sends_another_range_than_requested(server: RangeServer, client: Client):
    def behavior(number: int, start: int, stop: int) -> Answer | None:
        return correct(start + 1, stop) if number > 3 else None

    server.reset(behavior)
    with pytest.raises(IntegrityError, match="another range"):
        read(server, client)


def test_a_file_that_is_replaced_is_not_mixed(server: RangeServer, client: Client):
    server.reset(lambda number, start, stop: correct(start, stop, etag='"2"') if number > 5 else None)
    with pytest.raises(IntegrityError, match="was replaced"):
        read(server, client)


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_ends_the_parallel_requests(server: RangeServer, client: Client, status: int):
    """The request that follows waits as long as the server asks, and no other request runs beside it."""
    refused: list[float] = []

    def behavior(number: int, start: int, stop: int) -> Answer | None:
        if number != 6:
            return correct(start, stop, bytes_per_second=10 * RATE)
        refused.append(time.monotonic())
        return Answer(status, {"Retry-After": "1"})

    server.reset(behavior)
    assert read(server, client) == DATA
    later = [moment for moment in server.times if moment > refused[0] + 0.3]
    assert later[0] - refused[0] >= 1
    assert len(later) <= 3


def test_a_server_that_refuses_more_than_one_connection(server: RangeServer, client: Client):
    """Each request but the first one in a row is refused; one connection after the other succeeds."""
    busy = threading.Semaphore(1)

    def behavior(_: int, start: int, stop: int) -> Answer | None:
        if not busy.acquire(blocking=False):
            return Answer(429, {"Retry-After": "0"})
        timer = threading.Timer((stop - start) / 200e6, busy.release)
        timer.start()
        return correct(start, stop, bytes_per_second=200_000_000)

    server.reset(behavior)
    assert read(server, client) == DATA


def test_an_error_of_all_requests_is_raised(server: RangeServer, client: Client):
    server.reset(lambda number, *_: Answer(404) if number > 3 else None)
    with pytest.raises(UnavailableError, match="HTTP 404"):
        read(server, client)


def test_a_cancel_ends_all_connections(server: RangeServer):
    server.reset(lambda _, start, stop: correct(start, stop, stall_after=600_000))
    client = Client(connections=20)
    client.parallel = ParallelLimit(8)
    reading = chunks(server, client)
    next(reading)
    timer = threading.Timer(0.2, client.cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        list(reading)
    assert time.monotonic() - began < DEADLINE


def test_a_reader_that_stops_ends_its_threads(server: RangeServer, client: Client):
    reading = chunks(server, client)
    next(reading)
    reading.close()
    deadline = time.monotonic() + DEADLINE
    while any(thread.name == "read-ahead" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.parallel.reserve(READ_AHEAD)
