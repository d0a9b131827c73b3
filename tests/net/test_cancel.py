"""Cancelling transfers that wait for a server, and pauses of a server that are no failure."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from llmstack.net import Cancelled, Client, ConnectionLostError, Response, read_limited, read_resuming
from llmstack.net.http_client import tls_context
from llmstack.net.retry import Backoff

# Longer than any correct run takes.
DEADLINE = 30
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], object], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Pass each connection to `serve` and keep it open until the end; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as connections:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    if context:
                        connection = context.wrap_socket(connection, server_side=True)
                    connections.enter_context(connection)
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)


def answer_ok(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(HEAD.replace(b"1000", b"2") + b"ok")


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return the scheme and the TLS context of the server."""
    if request.param == "http":
        return "http", None
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return "https", context


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + bytes(10)], ids=["no answer", "no body", "half a body"])
def test_a_cancel_ends_a_read_that_waits_for_data(scheme, sent: bytes):
    tls_context.cache_clear()
    waiting = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(sent)
        waiting.set()

    errors: list[BaseException] = []
    client = Client(timeout=600)

    def read(url: str) -> None:
        def open_range(_: str | None, backoff: Backoff) -> Response:
            return client.request("GET", url, backoff=backoff)

        try:
            list(read_resuming(client, open_range, what="x", size=1000))
        except BaseException as error:
            errors.append(error)

    with serving(serve, scheme[1]) as host:
        reader = threading.Thread(target=read, args=(f"{scheme[0]}://{host}/x",))
        reader.start()
        assert waiting.wait(DEADLINE)
        client.cancel.set()
        reader.join(DEADLINE)
        assert not reader.is_alive()
    client.cancel.clear()
    tls_context.cache_clear()
    assert [type(error) for error in errors] == [Cancelled]


def test_a_client_can_be_used_after_a_cancel():
    """Its idle connection was shut down, so it connects again."""
    client = Client()
    with serving(answer_ok) as host:
        for _ in range(2):
            assert read_limited(client.request("GET", f"http://{host}/"), 10) == b"ok"
            client.cancel.set()
            client.cancel.clear()


def test_a_time_limit_ends_a_write():
    client = Client(timeout=600)
    with serving(lambda connection: connection.recv(65536)) as host:
        with client.cancel.time_limit(0.2), pytest.raises(Cancelled):
            client.request("PUT", f"http://{host}/", body=b"x")
        assert not client.cancel.is_set()


def test_a_write_that_a_time_limit_ends_sees_that_it_has_expired():
    """Otherwise it would try to cancel its upload at a server that does not answer."""
    expired: list[bool] = []
    client = Client(connections=4, timeout=600)

    def write(url: str) -> None:
        with contextlib.suppress(ConnectionLostError):
            client.send("PUT", url, body=b"x")
        expired.append(client.cancel.expired)

    with serving(lambda connection: connection.recv(65536)) as host:
        for _ in range(10):
            writers = [threading.Thread(target=write, args=(f"http://{host}/",)) for _ in range(4)]
            with client.cancel.time_limit(0.2):
                for writer in writers:
                    writer.start()
                for writer in writers:
                    writer.join(DEADLINE)
    assert expired == [True] * 40


def test_idle_connections_do_not_expire():
    client = Client()
    with serving(answer_ok) as host:
        assert read_limited(client.request("GET", f"http://{host}/"), 10) == b"ok"
        client.cancel.set()
        with client.cancel.time_limit(0.05):
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer) and thread.interval == 0.05:
                    thread.join(DEADLINE)
            assert not client.cancel.expired


def test_a_server_may_pause_for_longer_than_the_connect_timeout(monkeypatch: pytest.MonkeyPatch):
    """A registry with a slow disk stops reading for a while."""
    monkeypatch.setattr("llmstack.net.http_client.CONNECT_TIMEOUT", 0.2)  # 20 s would take too long
    paused = threading.Event()

    def serve(connection: socket.socket) -> None:
        paused.wait(1)
        with connection.makefile("rb") as stream:
            while stream.readline() != b"0\r\n":
                pass
        connection.sendall(HEAD.replace(b"1000", b"0"))

    with serving(serve) as host:
        response = Client().send("PATCH", f"http://{host}/", body=(bytes(1 << 20) for _ in range(20)))
        assert response.status == 200
