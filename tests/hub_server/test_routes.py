"""Whatever is asked for: an answer that is no crash, nothing from outside the repo, no header but the hub's own."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.hub_server.routes import ApiCall, FileAddress, parse_address
from tests.hub_server.conftest import FILES
from tests.support.serving import Serving

pytestmark = pytest.mark.xdist_group("serving")

NASTY = ["..", ".", "", "etc", "passwd", "%2e%2e", "%2F", "%00", "%0d%0aX-Evil:%201", "%ff", "\\", "é", "#", ";", "~"]
WORDS = [
    "api",
    "models",
    "datasets",
    "org",
    "model",
    "gpt2",
    "resolve",
    "main",
    "tree",
    "revision",
    "refs",
    "paths-info",
]
WORDS += ["auth-check", "commits", "v1.0", "config.json", "sub%20dir", "healthz", "metrics", "whoami-v2", "blobs"]
SEGMENT = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(NASTY), st.text(max_size=8).map(lambda t: quote(t, safe="%"))
)
# Half of them begin as a sound request does, so that what follows is looked at.
START = st.sampled_from(
    ["", "", "/org/model/resolve/main", "/org/model/resolve", "/api/models/org/model/tree/main", "/api/models/org"]
)
PATH = st.builds(lambda start, parts: start + "/" + "/".join(parts), START, st.lists(SEGMENT, max_size=6))
QUERY = st.sampled_from(
    [
        "",
        "recursive=true",
        "recursive=true&limit=1&x=%3E%0d",
        "limit=0",
        "limit=-1&cursor=99999999999",
        "cursor=2",
        "expand=sha",
        "search=%0d%0a",
        "blobs=1",
        "author=%ff",
        "recursive=%00&recursive=",
        "&&=&",
        "limit=%D9%A3",
    ]
)
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["Range", "If-None-Match", "If-Range", "Authorization", "Accept-Language", "Cookie"]),
    st.one_of(HEADER, HEADER.map("bytes={}".format), st.from_regex(r"bytes=\d*-\d*", fullmatch=True)),
    max_size=2,
)
HOST = st.sampled_from(["hub", "hub", "[::1]:80", "][", "a>b", "é", "x/y?z#"])
METHOD = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
STATUSES = {200, 206, 304, 400, 401, 404, 405, 416}
OWN = {
    "accept-ranges",
    "allow",
    "cache-control",
    "connection",
    "content-disposition",
    "content-language",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "etag",
    "link",
    "referrer-policy",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
    "x-error-code",
    "x-error-message",
    "x-linked-etag",
    "x-linked-size",
    "x-repo-commit",
}


def raw(hub: Serving, request: bytes) -> tuple[int, list[str], bytes]:
    """Send bytes as they are; return the status, the header lines and the body."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", hub.port), timeout=30)) as connection:
        connection.sendall(request)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), lines, body


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METHOD, PATH, QUERY, HEADERS, HOST, st.binary(max_size=30))
def test_any_request(
    served_layout: Serving, method: str, path: str, query: str, headers: dict[str, str], host: str, body: bytes
):
    sent = {**headers, "Host": host, "Connection": "close", "Content-Length": str(len(body))}
    lines = [
        f"{method} {path}{'?' if query else ''}{query} HTTP/1.1",
        *(f"{name}: {value}" for name, value in sent.items()),
    ]
    status, answered, content = raw(served_layout, "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
    assert status in STATUSES
    assert {line.partition(":")[0].lower() for line in answered} <= OWN
    assert b"root:" not in content


@given(PATH)
def test_addresses_name_repos_and_paths_alone(path: str):
    address = parse_address(path)
    if isinstance(address, ApiCall | FileAddress):
        assert ".." not in address.repo_id
        assert address.repo_id.count("/") <= 1
    if isinstance(address, FileAddress):
        assert address.path
        assert address.revision


def test_a_hundred_ways_out_lead_nowhere(served_layout: Serving):
    ups = ["..", "%2e%2e", "%2E.", "..%2f..", "....//", "%252e%252e", "..%5c..", "./..", "%c0%ae%c0%ae"]
    for up in ups:
        for depth in (1, 4, 9):
            for place in ("/org/model/resolve/main/", "/api/models/org/model/tree/main/", "/datasets/", "/"):
                answer = served_layout.get(place + f"{up}/" * depth + "etc/passwd")
                assert answer.status == 404, (place, up, depth)


def test_every_listed_file_can_be_had(served_layout: Serving):
    for path, data in FILES.items():
        for safe in ("", "/"):
            assert served_layout.get(f"/org/model/resolve/main/{quote(path, safe=safe)}").body == data
