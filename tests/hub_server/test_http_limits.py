"""Slow, hostile and too many clients: each connection has limits on bytes and time, and others are answered."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from llmstack.hub_server.http_server import MAX_HEAD, LimitedServer, Limits
from llmstack.hub_server.layout_files import FileRange, FileResponse
from llmstack.hub_server.metrics import Metrics
from llmstack.oci.layout import Layout
from tests.hub_server.test_load import MEGABYTE, memory
from tests.support.carried import carry
from tests.support.serving import Serving, serving

HALF = b"GET /org/model/resolve/main/a HTTP/1.1\r\nHost: hub\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
# From memory, and from a file without a copy.
GET_LARGE = CLOSING.replace(b"/", b"/large", 1)
GET_FILE = CLOSING.replace(b"/", b"/file", 1)
TOKEN = "hf_s3cret"
# More than the socket buffers take.
LARGE = 64 * MEGABYTE


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A layout with one repo."""
    folder = tmp_path_factory.mktemp("carried")
    carry(Layout(folder / "models"), "org--model", {"a": b"a"})
    return f"oci:{folder}"


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def hub(carried: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A hub with a token and 128 file descriptors."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "token").write_text(TOKEN)
    with serving(folder, carried, "--token-file", folder / "token", descriptors=128, workers=request.param) as hub:
        yield hub


def connect(hub: Serving, stack: contextlib.ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=60))


def test_the_head_of_a_request_is_limited(hub: Serving):
    before = memory(hub, "VmHWM")
    line = b"X-Padding: " + b"a" * 4000 + b"\r\n"
    with contextlib.ExitStack() as stack:
        connection = connect(hub, stack)
        connection.sendall(HALF)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 200 * MEGABYTE:
                connection.sendall(line)
                sent += len(line)
        assert sent < 16 * MEGABYTE
    assert memory(hub, "VmHWM") - before < 16 * MEGABYTE
    assert hub.get("/" + "a" * (MAX_HEAD // 2)).status == 401


@pytest.mark.parametrize("sent", [b"", b"GET", HALF, HALF + b"Content-Length: 9\r\n\r\n", HALF + b"\r\n"])
def test_more_connections_than_descriptors_do_not_stop_others(hub: Serving, sent: bytes):
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            connect(hub, stack).sendall(sent)
        assert hub.get("/healthz").status == 200
        answer = hub.get("/org/model/resolve/main/a", Authorization=f"Bearer {TOKEN}")
        assert (answer.status, answer.body) == (200, b"a")
    assert "Traceback" not in hub.output


def test_the_memory_of_all_forms_is_limited(hub: Serving):
    head = "POST /api/models/org/model/paths-info/main HTTP/1.1\r\nHost: hub\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\nContent-Length: {2 * MEGABYTE}\r\n\r\n"
    before = memory(hub, "VmHWM")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            with contextlib.suppress(ConnectionError):
                connect(hub, stack).sendall(head.encode() + b"a" * (2 * MEGABYTE - 1))
        # Some are beyond the limit of 64 MiB.
        while "paths-info/main 503 " not in hub.output:
            assert hub.daemon.alive
        assert memory(hub, "VmHWM") - before < 128 * MEGABYTE
        assert hub.get("/org/model/resolve/main/a", Authorization=f"Bearer {TOKEN}").body == b"a"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    while hub.ask("POST", "/api/models/org/model/paths-info/main", headers, b"paths=a").status == 503:
        assert hub.daemon.alive
    answer = hub.ask("POST", "/api/models/org/model/paths-info/main", headers, b"paths=a&" * 100_000)
    assert (answer.status, answer.headers["x-error-code"]) == (413, "TooLarge")


def test_unfinished_tls_handshakes_do_not_stop_others(carried: str, tmp_path: Path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ["--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"]
    with serving(tmp_path, carried, *options, descriptors=128) as hub, contextlib.ExitStack() as stack:
        for _ in range(150):
            connect(hub, stack).sendall(b"\x16\x03\x01")
        with context.wrap_socket(connect(hub, stack), server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path", ["/%68ealthz", "/healthz%2F", "/healthz/../metrics", "/healthz?/metrics", "//healthz/x", "/healthz;x", "/."]
)
def test_only_the_health_check_itself_needs_no_token(hub: Serving, path: str):
    answer = hub.get(path)
    assert answer.status == (200 if path.startswith("/healthz?") else 401)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the request's body, or with many bytes."""
    if scope["path"] == "/file":
        with tempfile.TemporaryFile() as file:
            file.truncate(LARGE)
            part = FileRange(file, 0, LARGE)
            response = FileResponse(Metrics(), part, 200, {"Content-Length": str(LARGE)})
            await response(scope, receive, send)
        return
    body = await Request(scope, receive).body()
    await PlainTextResponse("a" * LARGE if scope["path"] == "/large" else str(len(body)))(scope, receive, send)


@contextlib.contextmanager
def running(limits: Limits) -> Iterator[tuple[int, LimitedServer]]:
    """Run a server in a thread; return its port and itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="critical")
        config.load()
        server = LimitedServer(config, listening, limits, Metrics())
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()


def request(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(sent)
    return connection


def read_all(connection: socket.socket, pause: float = 0) -> int:
    """Return the number of bytes until the connection is closed or reset."""
    total = 0
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(MEGABYTE):
            total += len(chunk)
            time.sleep(pause)
    return total


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"])
@pytest.mark.parametrize("sent", [b"", HALF, b"POST / HTTP/1.1\r\nHost: hub\r\nContent-Length: 99999\r\n\r\nabc"])
def test_an_unfinished_request_is_closed_after_its_time(before: bytes, sent: bytes):
    with running(Limits(10, request=0.3)) as (port, _), request(port, before) as connection:
        if before:
            assert connection.recv(1000).endswith(b"\r\n0")
        connection.sendall(sent)
        # More bytes do not extend the time.
        with pytest.raises(ConnectionError):  # noqa: PT012 - the server may close between the two
            while connection.fileno():
                connection.sendall(b"X")
                time.sleep(0.05)


@pytest.mark.parametrize("sent", [GET_LARGE, GET_FILE])
def test_a_client_that_reads_nothing_is_closed(sent: bytes):
    with running(Limits(10, stall=0.5)) as (port, server), request(port, sent) as connection:
        assert connection.recv(1, socket.MSG_PEEK)
        while server.server_state.connections:
            time.sleep(0.05)
        assert read_all(connection) < LARGE


@pytest.mark.parametrize("sent", [GET_LARGE, GET_FILE])
def test_a_slow_reader_gets_everything(sent: bytes):
    limits = Limits(10, request=0.5, stall=1.0)
    with running(limits) as (port, _), request(port, sent) as connection:
        assert read_all(connection, 0.02) > LARGE


@pytest.mark.parametrize("sent", [GET_LARGE, GET_FILE])
def test_busy_connections_are_not_closed_for_new_ones(sent: bytes):
    with running(Limits(3)) as (port, _), contextlib.ExitStack() as stack:
        busy = [stack.enter_context(request(port, sent)) for _ in range(3)]
        for connection in busy:
            assert connection.recv(12) == b"HTTP/1.1 200"
        with request(port, CLOSING) as extra:
            assert extra.recv(12) == b"HTTP/1.1 503"
        assert all(read_all(connection) > LARGE for connection in busy)
