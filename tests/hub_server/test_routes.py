"""Any request gets a valid answer, without files from outside the repo and without unexpected headers."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.hub_server.paths import FILE, RAW, Target, normalized
from llmstack.hub_server.routes import ROUTES, find_route
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
WORDS += ["raw", "discussions", "info", "ORG", "Model", "model.git", "HEAD"]
SEGMENT = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(NASTY), st.text(max_size=8).map(lambda t: quote(t, safe="%"))
)
# Half of them start like a valid request, so that the rest is parsed.
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
        "expand=true&revision=HEAD",
        "service=git-upload-pack",
        "download=true&p=1",
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
    st.sampled_from(
        ["Range", "If-None-Match", "If-Range", "Authorization", "Accept-Language", "Cookie", "Content-Type"]
    ),
    st.one_of(HEADER, HEADER.map("bytes={}".format), st.from_regex(r"bytes=\d*-\d*", fullmatch=True)),
    max_size=2,
)
HOST = st.sampled_from(["hub", "hub", "[::1]:80", "][", "a>b", "é", "x/y?z#"])
METHOD = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
STATUSES = {200, 204, 206, 304, 307, 400, 401, 404, 405, 416, 501}
OWN = {
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
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
    "location",
    "referrer-policy",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
    "x-error-code",
    "x-error-message",
    "x-linked-etag",
    "x-linked-size",
    "x-repo-commit",
    "x-total-count",
}


def raw(hub: Serving, request: bytes) -> tuple[int, list[str], bytes]:
    """Send raw bytes; return the status, the header lines and the body."""
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
def test_any_request_gets_a_valid_answer(
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
def test_a_target_has_a_valid_repo_id(path: str):
    if found := find_route(normalized(path)):
        route, target = found
        assert ".." not in target.repo_id
        assert target.repo_id.count("/") <= 1
        if route.template in {FILE, RAW}:
            assert target.path
            assert target.revision


@pytest.mark.parametrize(
    ("path", "handler", "target"),
    [
        ("/api/models", "get_repos", Target("model")),
        ("/api/datasets/", "get_repos", Target("dataset")),
        ("/api/models/gpt2", "get_repo", Target("model", "gpt2")),
        ("/api/models/org/m/revision/v1%2F2", "get_repo", Target("model", "org/m", "v1/2")),
        ("/api/models/org/m/tree/refs/pr/1/a/b", "get_tree", Target("model", "org/m", "refs/pr/1", "a/b")),
        ("/api/models/org%2Fm/tree/refs%2Fpr%2F1", "get_tree", Target("model", "org/m", "refs/pr/1")),
        ("/api/datasets/gpt2/refs", "get_refs", Target("dataset", "gpt2")),
        ("/api/models/org/m/refs/more", "", None),
        ("/api/spaces/m", "", None),
        ("/api/%6dodels", "", None),
        ("/datasets/org/s/resolve/main/a%2Fb/c", "get_file", Target("dataset", "org/s", "main", "a/b/c")),
        ("/models/org/m/resolve/main/a", "get_file", Target("model", "org/m", "main", "a")),
        ("/org/m/resolve/main", "", None),
        ("/org/m/blob/main", "get_file_page", Target("model", "org/m", "main")),
        ("/datasets/s", "get_repo_page", Target("dataset", "s")),
        ("/datasets", "get_repo_list", Target("dataset")),
        ("//", "get_repo_list", Target()),
        ("/%68ealthz", "get_repo_page", Target("model", "healthz")),
    ],
)
def test_the_handler_and_the_target_of_a_path(path: str, handler: str, target: Target | None):
    found = find_route(normalized(path))
    assert (found[0].handler.__name__, found[1]) == (handler, target) if found else target is None


def test_only_the_health_check_and_the_answer_to_git_are_public():
    assert [route.handler.__name__ for route in ROUTES if route.public] == ["get_healthz", "get_clone"]


def test_path_traversal_gets_404(served_layout: Serving):
    ups = ["..", "%2e%2e", "%2E.", "..%2f..", "....//", "%252e%252e", "..%5c..", "./..", "%c0%ae%c0%ae"]
    for up in ups:
        for depth in (1, 4, 9):
            for start in ("/org/model/resolve/main/", "/api/models/org/model/tree/main/", "/datasets/", "/"):
                answer = served_layout.get(start + f"{up}/" * depth + "etc/passwd")
                assert answer.status == 404, (start, up, depth)


def test_every_listed_file_can_be_downloaded(served_layout: Serving):
    for path, data in FILES.items():
        for safe in ("", "/"):
            assert served_layout.get(f"/org/model/resolve/main/{quote(path, safe=safe)}").body == data
