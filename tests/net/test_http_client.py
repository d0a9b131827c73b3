"""The HTTP client against real servers: retries, redirects, proxies, CAs, invalid responses."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from llmstack import net
from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.net import Cancelled, ConnectionLostError, display_url, read_limited
from llmstack.net.http_client import MAX_REDIRECTS, tls_context
from llmstack.net.http_headers import basic_auth
from llmstack.net.network_errors import (
    ConnectFailedError,
    ConnectionClosedError,
    ConnectionTimeoutError,
    InvalidResponseError,
    TlsError,
)
from llmstack.net.urls import redirected
from tests.support.webserver import Request, Response, WebServer

SECRET = "s3cr3t-t0ken"
BEARER = {"Authorization": f"Bearer {SECRET}"}


class RecordingServer(WebServer):
    """A web server that records its requests."""

    def __init__(self, answer: Callable[[Request], Response], host: str = "127.0.0.1", port: int = 0) -> None:
        self.seen: list[Request] = []
        super().__init__(self._answer, host, port)
        self._make = answer

    def _answer(self, request: Request) -> Response:
        self.seen.append(request)
        return self._make(request)


@pytest.fixture
def serve() -> Iterator[Callable[..., RecordingServer]]:
    """Return a function that starts a server; all are stopped after the test."""
    servers: list[RecordingServer] = []

    def start(answer: Callable[[Request], Response], host: str = "127.0.0.1", port: int = 0) -> RecordingServer:
        servers.append(RecordingServer(answer, host, port))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def Client(**options) -> net.Client:  # noqa: N802 - a client with shorter delays
    return net.Client(retry_wait=0.02, **options)


def text(client: net.Client, url: str, **headers: str) -> str:
    return read_limited(client.request("GET", url, headers), 10_000).decode()


def status_of(client: net.Client, url: str, headers: Mapping[str, str] | None = None) -> int:
    with closing(client.request("GET", url, headers)) as response:
        return response.status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_failures_are_retried(serve, status: int):
    answers = iter([status, 200])
    server = serve(lambda _: Response(next(answers), body=b"good"))
    assert text(Client(), server.url) == "good"
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 416, 501])
def test_permanent_failures_are_not_retried(serve, status: int):
    server = serve(lambda _: Response(status, body=b"no"))
    assert status_of(Client(), server.url) == status
    assert len(server.seen) == 1


def test_the_last_response_is_returned_when_no_tries_are_left(serve):
    notes: list[str] = []
    server = serve(lambda _: Response(503, {"Retry-After": "0"}))
    assert status_of(Client(note=notes.append), f"{server.url}/x?Signature={SECRET}") == 503
    assert len(server.seen) == 5
    assert all("503" in line and SECRET not in line for line in notes)


def test_an_idle_connection_that_the_server_closed_is_replaced(serve):
    client = Client()
    server = serve(lambda _: Response(200, body=b"one"))
    port = int(server.url.rpartition(":")[2])
    assert text(client, server.url) == "one"
    server.stop()
    serve(lambda _: Response(200, body=b"two"), port=port)
    assert text(client, server.url) == "two"


def test_a_refused_connection_is_reported_without_the_query():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectFailedError) as raised:
        Client().request("GET", f"http://127.0.0.1:{port}/a?token={SECRET}")
    assert str(raised.value) == f"http://127.0.0.1:{port}/a: connection refused"
    assert raised.value.exit_code == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("spelling", ["Authorization", "authorization", "AUTHORIZATION"])
def test_authorization_is_not_sent_to_another_origin(serve, status: int, spelling: str):
    far = serve(lambda _: Response(200, body=b"far"), host="127.0.0.2")
    other_port = serve(lambda _: Response(307, {"Location": f"{far.url}/c"}))
    server = serve(
        lambda request: Response(
            status, {"Location": f"{other_port.url}/b" if request.path == "/a" else "/a"}, body=b"moved"
        )
    )
    assert text(Client(), server.url, **{spelling: f"Bearer {SECRET}", "Range": "bytes=0-"}) == "far"
    assert [request.headers.get("authorization") for request in server.seen] == [f"Bearer {SECRET}"] * 2
    for request in (*other_port.seen, *far.seen):
        assert SECRET not in str(request)
        assert request.headers["range"] == "bytes=0-"


def test_a_redirect_back_does_not_restore_authorization(serve):
    home: list[RecordingServer] = []
    far = serve(lambda _: Response(302, {"Location": f"{home[0].url}/back"}), host="127.0.0.2")
    home.append(
        serve(lambda request: Response(200) if request.path == "/back" else Response(302, {"Location": far.url}))
    )
    assert status_of(Client(), home[0].url, BEARER) == 200
    assert [request.headers.get("authorization") for request in home[0].seen] == [f"Bearer {SECRET}", None]


def test_a_redirect_loop_ends(serve):
    server = serve(lambda _: Response(302, {"Location": "/again"}))
    with pytest.raises(UnavailableError, match="redirects"):
        Client().request("GET", server.url)
    assert len(server.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://[::1",
        "http://[zz]/",
        "http://",
        "//",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://\u00b2/",
        "javascript:alert(1)",
    ],
)
def test_a_redirect_to_an_invalid_url_is_an_error(serve, location: str):
    server = serve(lambda _: Response(302, {"Location": location + f"?Signature={SECRET}"}))
    with pytest.raises(UnavailableError) as raised:
        Client().request("GET", server.url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("target", ["http://a.example/x", "HTTP://a.example/x", "//a.example:80/x"])
def test_a_redirect_never_leads_from_https_to_http(target: str):
    if target.startswith("//"):
        assert redirected("https://a.example/", target, {})[0] == "https://a.example:80/x"
        return
    with pytest.raises(UnavailableError, match="not secure"):
        redirected("https://a.example/", target, BEARER)


def test_a_stream_is_sent_once_in_chunks_and_its_exception_passes_through():
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def receive() -> None:
            connection, _ = listener.accept()
            with connection:
                while chunk := connection.recv(65536):
                    received.append(chunk)

        thread = threading.Thread(target=receive)
        thread.start()

        def broken() -> Iterator[bytes]:
            yield b"abc"
            raise ValueError("the source broke")

        with pytest.raises(ValueError, match="the source broke"):
            Client().send("PATCH", f"http://127.0.0.1:{listener.getsockname()[1]}/", body=broken())
        thread.join(10)
    sent = b"".join(received)
    assert b"Transfer-Encoding: chunked" in sent
    assert b"Content-Length" not in sent
    assert sent.endswith(b"3\r\nabc\r\n")


def test_a_cancelled_client_sends_nothing(serve):
    server = serve(lambda _: Response(200))
    client = Client()
    client.cancel.set()
    with pytest.raises(Cancelled):
        client.request("GET", server.url)
    assert not server.seen


def test_a_response_longer_than_the_limit_is_refused(serve):
    server = serve(lambda _: Response(200, body=b"x" * 5000))
    assert len(read_limited(Client().request("GET", server.url), 5000)) == 5000
    with pytest.raises(IntegrityError, match="longer than 4999"):
        read_limited(Client().request("GET", server.url), 4999)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", ConnectionClosedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", ConnectionClosedError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", ConnectionClosedError),
        (b"\x15\x03\x01\x00\x02\x02\x46", InvalidResponseError),
        (b"HTTP/1.1 nonsense\r\n\r\n", InvalidResponseError),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", InvalidResponseError),
    ],
)
def test_the_error_class_tells_why_a_connection_was_lost(answer: bytes, kind: type[ConnectionLostError]):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(kind):
            read_limited(Client().send("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/"), 100)
        thread.join()


def test_a_host_name_that_does_not_resolve():
    with pytest.raises(ConnectFailedError, match=r"http://model\.invalid/: the host name does not resolve"):
        Client().send("GET", "http://model.invalid/")


def test_a_server_that_sends_nothing_times_out():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ConnectionTimeoutError, match=r"no data for 0\.2 s"),
    ):
        Client(timeout=0.2).send("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://h/a/b?Signature={SECRET}#f", "https://h/a/b"),
        (f"https://user:{SECRET}@h:1/a", "https://h:1/a"),
        ("http://h", "http://h"),
    ],
)
def test_display_url_has_no_secrets(url: str, shown: str):
    assert display_url(url) == shown


@pytest.fixture
def proxy(serve) -> RecordingServer:
    return serve(lambda _: Response(200, body=b"by proxy"), host="127.0.0.3")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_from_the_environment(proxy: RecordingServer, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, proxy.url if "http" in name.lower() else proxy.url.removeprefix("http://"))
    assert text(Client(), "http://model.example/x") == "by proxy"
    assert proxy.seen[0].headers["host"] == "model.example"


def test_a_proxy_gets_only_its_own_credentials(proxy: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:pass@"))
    text(Client(), "http://model.example/x")
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
    assert "authorization" not in proxy.seen[0].headers


def test_the_credentials_of_a_proxy_may_be_percent_encoded(proxy: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://m%65:p%40s%C3%A4@"))
    text(Client(), "http://model.example/x")
    assert proxy.seen[0].headers["proxy-authorization"] == basic_auth("me", "p@s\xe4")


@pytest.mark.parametrize("value", ["\r", "\n", "\r\n ", "\0", "\x7f", "\u20ac", "\ud800"])
@pytest.mark.parametrize("name", ["Authorization", "Content-Type"])
def test_an_invalid_header_value_is_not_sent_and_not_shown(serve, name: str, value: str):
    server = serve(lambda _: Response(200))
    with pytest.raises(IntegrityError, match=f"the value for the header {name} has invalid characters") as raised:
        Client().request("PUT", server.url, {name: f"{SECRET}{value}x"}, b"")
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert not server.seen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_addresses_do_not_go_through_a_proxy(
    serve, proxy: RecordingServer, monkeypatch: pytest.MonkeyPatch, host: str
):
    """As in Docker."""
    server = serve(lambda _: Response(200, body=b"direct"))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert text(Client(), server.url.replace("127.0.0.1", host)) == "direct"
    assert not proxy.seen


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("socks5h://me:{}@127.0.0.1:1", "socks5h proxies are not supported"),
        ("http://me:{}@[::1", "invalid URL"),
        ("me:{}@127.0.0.1:port", "invalid URL"),
        ("http://", "invalid URL"),
    ],
)
def test_an_unusable_proxy_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str):
    monkeypatch.setenv("ALL_PROXY", proxy.format(SECRET))
    with pytest.raises(UsageError, match=rf"all_proxy \(or ALL_PROXY\): {reason}") as raised:
        Client().send("GET", "http://model.example/x")
    assert SECRET not in str(raised.value)


# On Linux this address reaches the machine itself, but it is not a loopback address.
@pytest.mark.parametrize("no_proxy", ["0.0.0.0", "0.0.0.0:{port}", "*", "other,0.0.0.0"])
def test_no_proxy(serve, proxy: RecordingServer, monkeypatch: pytest.MonkeyPatch, no_proxy: str):
    server = serve(lambda _: Response(200, body=b"direct"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", no_proxy.format(port=server.url.rpartition(":")[2]))
    assert text(Client(), server.url.replace("127.0.0.1", "0.0.0.0")) == "direct"
    assert not proxy.seen


def test_a_proxy_that_is_down_is_reported_without_its_password(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:{port}")
    with pytest.raises(ConnectFailedError) as raised:
        Client().send("GET", "http://model.example/x")
    assert str(raised.value) == "http://model.example/x: proxy: connection refused"


@pytest.fixture
def tls_site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Return the URL of a server with a private CA, and the file of the CA."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def answer() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
                with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                    secure.do_handshake()
                    secure.recv(65536)
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsafe")
            except OSError:
                continue

    thread = threading.Thread(target=answer)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}/", tmp_path / "ca.pem"
    stopping.set()
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.fixture(autouse=True)
def fresh_tls() -> Iterator[None]:
    """CAs are cached in the process; each test has its own."""
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_ca_is_trusted(tls_site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, name: str):
    url, ca_file = tls_site
    monkeypatch.setenv(name, str(ca_file))
    assert text(Client(), url) == "safe"


def test_plain_http_does_not_read_ca_bundles(serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    server = serve(lambda _: Response(200, body=b"plain"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert text(Client(), server.url) == "plain"


def test_a_proxy_with_tls(tls_site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch):
    url, ca_file = tls_site
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("http_proxy", url)
    assert text(Client(), "http://model.example/x") == "safe"


def test_an_unknown_ca_is_refused_with_a_hint(tls_site: tuple[str, Path]):
    with pytest.raises(TlsError) as raised:
        Client().send("GET", tls_site[0])
    assert "SSL_CERT_FILE" in (raised.value.hint or "")


def test_a_server_without_tls_gives_a_hint():
    """A registry with plain HTTP answers a TLS handshake with 400."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TlsError) as raised:
            Client().send("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert "--plain-http" in (raised.value.hint or "")


def test_an_unreadable_ca_bundle_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(UnavailableError, match=r"REQUESTS_CA_BUNDLE=/nowhere\.pem"):
        Client().send("GET", "https://127.0.0.1:1/")
