"""The link of the benchmarks: its rates and its round trip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from benchmarks.shaper import Link, shaped

from tests.support.webserver import Response, WebServer

pytestmark = pytest.mark.slow

DATA = bytes(1_000_000)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = WebServer(lambda request: Response(200, {}, DATA if request.raw_path == "/data" else b"ok"))
    server.start()
    yield server.url.removeprefix("http://")
    server.stop()


def fetch(address: str, path: str) -> float:
    """Return the seconds that a request takes over a new connection."""
    began = time.monotonic()
    with urllib3.PoolManager() as pool:
        assert len(pool.request("GET", f"http://{address}/{path}", retries=False).data) in {2, len(DATA)}
    return time.monotonic() - began


def test_a_connection_has_a_rate(address: str):
    with shaped(address, Link(connection=4e6)) as far:
        assert fetch(far, "data") > 0.2


def test_all_connections_have_a_rate(address: str):
    began = time.monotonic()
    with shaped(address, Link(total=8e6)) as far, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(far, "data"), range(4)))
    assert time.monotonic() - began > 0.4


def test_a_request_over_a_new_connection_takes_two_round_trips(address: str):
    with shaped(address, Link(round_trip=0.2)) as far:
        assert fetch(far, "small") >= 0.4
