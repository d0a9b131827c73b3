"""Links, redirects and pages behind a reverse proxy that serves the hub under a path."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from llmstack.errors import UsageError
from llmstack.hub_server.public_url import PublicUrl, endpoint_of, prefix_of
from tests.hub_server.conftest import FILES, HTML
from tests.support.process import Daemon, free_port, need
from tests.support.serving import Serving, run_client, serving

pytestmark = pytest.mark.xdist_group("serving")

# The part that docs/how-to/hub-behind-a-proxy.md shows, without TLS.
NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        location /models/hub/ {{
            proxy_pass http://127.0.0.1:{hub}/;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Prefix /models/hub;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
CLIENT = """
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
api = HfApi()
print(sorted(p.name for p in Path(snapshot_download("ORG/model")).rglob("*") if p.is_file()))
print([model.id for model in api.list_models(limit=1)], len(list(api.list_models())))
print(HfFileSystem().ls("org/model", detail=False))
"""


@contextmanager
def nginx(folder: Path, hub: Serving) -> Iterator[int]:
    """Run nginx in front of a hub; yield its port."""
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, hub=hub.port))
    command = [need("nginx", "nginx-light"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    daemon = Daemon(command, folder / "nginx.log")
    try:
        daemon.wait_until(lambda: answers(port))
        yield port
    finally:
        daemon.stop()


def answers(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=5)):
        return True
    return False


def get(port: int, path: str, **headers: str) -> tuple[int, Mapping[str, str], str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode(errors="replace")


@pytest.mark.system
def test_everything_works_under_the_path_of_a_proxy(
    clients: Mapping[str, Path], served_pages: Serving, served_layout: Serving, tmp_path: Path
):
    with nginx(tmp_path, served_layout) as port:
        url = f"http://127.0.0.1:{port}/models/hub"
        lines = run_client(clients["2"], url, tmp_path / "home", "-c", CLIENT).splitlines()
        assert lines[0] == str(sorted(path.rpartition("/")[2] for path in FILES))
        assert lines[1] == "['gpt2'] 3"
        assert "'org/model/config.json'" in lines[2]
        status, headers, _ = get(port, "/models/hub/api/models/org/model/tree/main?limit=1")
        assert (status, headers["Link"].startswith(f"<{url}/api/models/org/model/tree/main?")) == (200, True)
        status, headers, _ = get(port, "/models/hub/Org/Model/resolve/main/config.json?download=true")
        assert (status, headers["Location"]) == (307, "/models/hub/org/model/resolve/main/config.json?download=true")
        status, headers, _ = get(port, "/models/hub/org/model/blob/main/config.json")
        assert (status, headers["Location"].startswith("/models/hub/org/model/resolve/")) == (307, True)
        assert f"HF_ENDPOINT={url}\n" in get(port, "/models/hub/org/model", **HTML)[2]
        check_links(port, ["/", "/org/model", "/org", "/org/model/tree/main/sub%20dir", "/nothing/there"])
    with nginx(tmp_path, served_pages) as port:
        check_links(port, ["/bad/readme", "/good/runs"])


def check_links(port: int, pages: list[str]) -> None:
    """Follow all links of pages to this host."""
    seen = set()
    for page in pages:
        _, _, html = get(port, f"/models/hub{page}", **HTML)
        found = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', html))
        assert found, html
        assert {link for link in found if not link.startswith("/models/hub/")} == set()
        seen |= found
    assert {link: status for link in seen if (status := get(port, link, **HTML)[0]) != 200} == {}


def test_the_base_url_is_that_of_all_clients(tmp_path: Path, served_layout: Serving):
    source = served_layout.output.split("serving ")[1].split(" at ")[0]
    with serving(tmp_path, source, "--base-url", "https://hub.lab/llm/") as hub:
        answer = hub.get("/api/models?limit=1", X_Forwarded_Host="evil.example", X_Forwarded_Prefix="/evil")
        assert answer.headers["link"].startswith("<https://hub.lab/llm/api/models?")
        assert "HF_ENDPOINT=https://hub.lab/llm\n" in hub.get("/org/model", **HTML).body.decode()


def test_an_unknown_proxy_is_not_believed(tmp_path: Path, served_layout: Serving):
    source = served_layout.output.split("serving ")[1].split(" at ")[0]
    forwarded = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Prefix": "/evil", "X_Forwarded_Proto": "https"}
    with serving(tmp_path, source, env={"LLMSTACK_HUB_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}) as hub:
        assert json.loads(hub.get("/api/models?limit=1").body)
        link = hub.get("/api/models?limit=1", **forwarded).headers["link"]
        assert link.startswith(f"<{hub.url}/api/models?")


def seen(client: str, headers: Mapping[str, str], *trusted: str, base_url: str | None = None) -> tuple[str, str]:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    request = HTTPConnection({"type": "http", "scheme": "http", "client": (client, 1), "headers": raw})
    PublicUrl.parse(base_url, trusted).note(request)
    return endpoint_of(request), prefix_of(request)


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        ("10.1.2.3", {"Host": "hub"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Host": "a.b:8443, c"}, ("http://a.b:8443", "")),
        ("::ffff:10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "https"}, ("https://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/a/b/"}, ("http://hub/a/b", "/a/b")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": '//evil/"><b>'}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "//evil.example"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "https, http"}, ("https://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "http,https"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "HTTPS"}, ("https://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "ftp, https"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/a/, /b"}, ("http://hub/a/b", "/a/b")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/a, b"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/p/../q"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/p/.."}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/./p"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Prefix": "/.p/..q/r."}, ("http://hub/.p/..q/r.", "/.p/..q/r.")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Port": "8443, 80"}, ("http://hub:8443", "")),
        ("10.1.2.3", {"Host": "[::1]", "X-Forwarded-Port": "8443"}, ("http://[::1]:8443", "")),
        ("10.1.2.3", {"Host": "hub:8080", "X-Forwarded-Port": "8443"}, ("http://hub:8080", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "80"}, ("https://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Port": "65536"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Port": "1@evil"}, ("http://hub", "")),
        ("192.0.2.1", {"Host": "hub", "X-Forwarded-Port": "8443"}, ("http://hub", "")),
        ("10.1.2.3", {"Host": "hub", "X-Forwarded-Host": "a/b"}, ("http://HOST:PORT", "")),
        ("192.0.2.1", {"Host": "hub", "X-Forwarded-Host": "evil", "X-Forwarded-Prefix": "/a"}, ("http://hub", "")),
        ("fe80::1%eth0", {"Host": "hub", "X-Forwarded-Host": "evil"}, ("http://hub", "")),
        ("", {"Host": "hub", "X-Forwarded-Host": "evil"}, ("http://hub", "")),
    ],
)
def test_the_url_of_a_request(client: str, headers: Mapping[str, str], expected: tuple[str, str]):
    assert seen(client, headers, "10.0.0.0/8", "2001:db8::7") == expected


def test_each_proxy_may_add_its_own_header():
    headers = [(b"host", b"hub"), (b"x-forwarded-prefix", b"/a"), (b"x-forwarded-prefix", b"/b")]
    request = HTTPConnection({"type": "http", "scheme": "http", "client": ("10.1.2.3", 1), "headers": headers})
    PublicUrl.parse(None, ["10.1.2.3"]).note(request)
    assert prefix_of(request) == "/a/b"


@pytest.mark.parametrize(
    "url",
    ["hub.lab", "ftp://a", "http://", "http://a:0", "http://a/?b", "http://a/b c", "http://a#b", "http://a/b/../c"],
)
def test_an_invalid_base_url_is_refused(url: str):
    with pytest.raises(UsageError, match="--base-url"):
        PublicUrl.parse(url, ())


def test_an_invalid_network_is_refused():
    with pytest.raises(UsageError, match="hub_trusted_proxies: 'proxy'"):
        PublicUrl.parse(None, ["10.0.0.1", "proxy"])
