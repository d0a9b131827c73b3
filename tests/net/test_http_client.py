"""The HTTP client against real sockets: retries, redirects that leak nothing, proxies, CAs, odd answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from llmstack import net
from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.net import ConnectionLostError, display_url, read_limited
from llmstack.net.http_client import MAX_REDIRECTS, redirected, tls_context
from llmstack.net.retry import Cancelled
from tests.support.webserver import Request, Response, WebServer

SECRET = "s3cr3t-t0ken"
BEARER = {"Authorization": f"Bearer {SECRET}"}


class Site(WebServer):
    """A web server that remembers its requests."""

    def __init__(self, answer: Callable[[Request], Response], host: str = "127.0.0.1", port: int = 0) -> None:
        self.seen: list[Request] = []
        super().__init__(self._answer, host, port)
        self._make = answer

    def _answer(self, request: Request) -> Response:
        self.seen.append(request)
        return self._make(request)


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Return a function that starts a site; all end with the test."""
    sites: list[Site] = []

    def start(answer: Callable[[Request], Response], host: str = "127.0.0.1", port: int = 0) -> Site:
        sites.append(Site(answer, host, port))
        sites[-1].start()
        return sites[-1]

    yield start
    for site in sites:
        site.stop()


def Client(**options) -> net.Client:  # noqa: N802 - a client with shorter waits and the same policy
    return net.Client(retry_wait=0.02, **options)


def text(client: net.Client, url: str, **headers: str) -> str:
    return read_limited(client.request("GET", url, headers), 10_000).decode()


def status_of(client: net.Client, url: str, headers: Mapping[str, str] | None = None) -> int:
    with closing(client.request("GET", url, headers)) as response:
        return response.status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_it_tries_again_where_that_may_help(serve, status: int):
    answers = iter([status, 200])
    site = serve(lambda _: Response(next(answers), body=b"good"))
    assert text(Client(), site.url) == "good"
    assert len(site.seen) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 416, 501])
def test_it_does_not_try_again_where_it_cannot_help(serve, status: int):
    site = serve(lambda _: Response(status, body=b"no"))
    assert status_of(Client(), site.url) == status
    assert len(site.seen) == 1


def test_the_last_answer_comes_back_when_it_gives_up(serve):
    told: list[str] = []
    site = serve(lambda _: Response(503, {"Retry-After": "0"}))
    assert status_of(Client(tell=told.append), f"{site.url}/x?Signature={SECRET}") == 503
    assert len(site.seen) == 5
    assert all("503" in line and SECRET not in line for line in told)


def test_a_connection_that_breaks_is_made_again(serve):
    """The server closes a kept connection between two requests, as all do after a while."""
    client = Client()
    site = serve(lambda _: Response(200, body=b"one"))
    port = int(site.url.rpartition(":")[2])
    assert text(client, site.url) == "one"
    site.stop()
    serve(lambda _: Response(200, body=b"two"), port=port)
    assert text(client, site.url) == "two"


def test_nobody_there_is_told_after_some_tries_without_the_query():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionLostError) as raised:
        Client().request("GET", f"http://127.0.0.1:{port}/a?token={SECRET}")
    assert str(raised.value) == f"http://127.0.0.1:{port}/a: connection refused"
    assert raised.value.exit_code == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("spelling", ["Authorization", "authorization", "AUTHORIZATION"])
def test_authorization_stays_with_its_origin(serve, status: int, spelling: str):
    far = serve(lambda _: Response(200, body=b"far"), host="127.0.0.2")
    other_port = serve(lambda _: Response(307, {"Location": f"{far.url}/c"}))
    site = serve(
        lambda request: Response(
            status, {"Location": f"{other_port.url}/b" if request.path == "/a" else "/a"}, body=b"moved"
        )
    )
    assert text(Client(), site.url, **{spelling: f"Bearer {SECRET}", "Range": "bytes=0-"}) == "far"
    assert [request.headers.get("authorization") for request in site.seen] == [f"Bearer {SECRET}"] * 2
    for request in (*other_port.seen, *far.seen):
        assert SECRET not in str(request)
        assert request.headers["range"] == "bytes=0-"


def test_a_token_does_not_come_back_with_a_second_redirect(serve):
    home: list[Site] = []
    far = serve(lambda _: Response(302, {"Location": f"{home[0].url}/back"}), host="127.0.0.2")
    home.append(
        serve(lambda request: Response(200) if request.path == "/back" else Response(302, {"Location": far.url}))
    )
    assert status_of(Client(), home[0].url, BEARER) == 200
    assert [request.headers.get("authorization") for request in home[0].seen] == [f"Bearer {SECRET}", None]


def test_redirects_in_a_circle_end(serve):
    site = serve(lambda _: Response(302, {"Location": "/again"}))
    with pytest.raises(UnavailableError, match="redirects"):
        Client().request("GET", site.url)
    assert len(site.seen) == MAX_REDIRECTS + 1


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
def test_a_redirect_to_nowhere_is_an_error_of_the_server(serve, location: str):
    site = serve(lambda _: Response(302, {"Location": location + f"?Signature={SECRET}"}))
    client = Client()
    threading.Timer(0.2, client.cancel.set).start()
    with pytest.raises((UnavailableError, Cancelled)) as raised:
        client.request("GET", site.url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("target", ["http://a.example/x", "HTTP://a.example/x", "//a.example:80/x"])
def test_tls_is_never_left(target: str):
    if target.startswith("//"):
        assert redirected("https://a.example/", target, {})[0] == "https://a.example:80/x"
        return
    with pytest.raises(UnavailableError, match="not secure"):
        redirected("https://a.example/", target, BEARER)


def test_a_stream_goes_out_once_in_chunks_and_what_it_raises_passes_through():
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
    site = serve(lambda _: Response(200))
    client = Client()
    client.cancel.set()
    with pytest.raises(Cancelled):
        client.request("GET", site.url)
    assert not site.seen


def test_an_answer_longer_than_allowed_is_refused(serve):
    site = serve(lambda _: Response(200, body=b"x" * 5000))
    assert len(read_limited(Client().request("GET", site.url), 5000)) == 5000
    with pytest.raises(IntegrityError, match="longer than 4999"):
        read_limited(Client().request("GET", site.url), 4999)


def test_a_server_that_falls_silent_does_not_keep_us():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ConnectionLostError, match="silent"):
        Client(timeout=0.2).send("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://h/a/b?Signature={SECRET}#f", "https://h/a/b"),
        (f"https://user:{SECRET}@h:1/a", "https://h:1/a"),
        ("http://h", "http://h"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str):
    assert display_url(url) == shown


@pytest.fixture
def proxy(serve) -> Site:
    return serve(lambda _: Response(200, body=b"by proxy"), host="127.0.0.3")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment(proxy: Site, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, proxy.url if "http" in name.lower() else proxy.url.removeprefix("http://"))
    # Python's urllib ignores HTTP_PROXY in a CGI script only.
    assert text(Client(), "http://model.example/x") == "by proxy"
    assert proxy.seen[0].headers["host"] == "model.example"


def test_a_proxy_gets_its_own_login_and_nobody_elses(proxy: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:pass@"))
    text(Client(), "http://model.example/x")
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
    assert "authorization" not in proxy.seen[0].headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_on_this_machine_is_not_asked_for_by_a_proxy(
    serve, proxy: Site, monkeypatch: pytest.MonkeyPatch, host: str
):
    """As with Docker: the proxy's own loopback is another one."""
    site = serve(lambda _: Response(200, body=b"direct"))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert text(Client(), site.url.replace("127.0.0.1", host)) == "direct"
    assert not proxy.seen


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("socks5h://me:{}@127.0.0.1:1", "names a proxy of the kind socks5h"),
        ("http://me:{}@[::1", "is no address"),
        ("me:{}@127.0.0.1:port", "is no address"),
        ("http://", "is no address"),
    ],
)
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str):
    monkeypatch.setenv("ALL_PROXY", proxy.format(SECRET))
    with pytest.raises(UsageError, match=rf"all_proxy \(or ALL_PROXY\) {reason}") as raised:
        Client().send("GET", "http://model.example/x")
    assert SECRET not in str(raised.value)


# Linux leads this address to the machine itself, too, and does not call it loopback.
@pytest.mark.parametrize("no_proxy", ["0.0.0.0", "0.0.0.0:{port}", "*", "other,0.0.0.0"])
def test_no_proxy(serve, proxy: Site, monkeypatch: pytest.MonkeyPatch, no_proxy: str):
    site = serve(lambda _: Response(200, body=b"direct"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", no_proxy.format(port=site.url.rpartition(":")[2]))
    assert text(Client(), site.url.replace("127.0.0.1", "0.0.0.0")) == "direct"
    assert not proxy.seen


def test_a_proxy_that_is_down_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:{port}")
    with pytest.raises(ConnectionLostError) as raised:
        Client().send("GET", "http://model.example/x")
    assert SECRET not in str(raised.value)


@pytest.fixture
def tls_site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Return the URL of a server with a CA of its own, and that CA's file."""
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
    """The CAs are read once for a process; each test has its own."""
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_ca(tls_site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, name: str):
    url, ca_file = tls_site
    monkeypatch.setenv(name, str(ca_file))
    assert text(Client(), url) == "safe"


def test_plain_http_reads_no_ca(serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    site = serve(lambda _: Response(200, body=b"plain"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    assert text(Client(), site.url) == "plain"


def test_a_proxy_behind_tls(tls_site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch):
    url, ca_file = tls_site
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("http_proxy", url)
    assert text(Client(), "http://model.example/x") == "safe"


def test_an_unknown_ca_is_refused_with_what_to_do(tls_site: tuple[str, Path]):
    with pytest.raises(ConnectionLostError, match="TLS") as raised:
        Client().send("GET", tls_site[0])
    assert "SSL_CERT_FILE" in (raised.value.hint or "")


def test_a_server_without_tls_is_told_apart():
    """A registry over plain HTTP answers a TLS greeting with 400."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionLostError) as raised:
            Client().send("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert "--plain-http" in (raised.value.hint or "")


def test_a_bundle_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(UnavailableError, match=r"REQUESTS_CA_BUNDLE=/nowhere\.pem"):
        Client().send("GET", "https://127.0.0.1:1/")
