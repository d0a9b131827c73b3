"""A Repository against faulty responses that real registries send."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from llmstack.engine.credentials import lookup
from llmstack.errors import (
    IntegrityError,
    LlmstackError,
    NotAuthorizedError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from llmstack.net import Client
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries, Repository
from llmstack.oci.spec import Index, Manifest
from tests.oci.repositories import BLOB, open_repository
from tests.support.webserver import Request, Response, WebServer


class OddRegistry:
    """A registry that sends prepared responses and records requests; it accepts all other uploads."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Response]] = {}
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.blobs: set[str] = set()
        self.server = WebServer(self._answer)

    @property
    def host(self) -> str:
        return self.server.url.removeprefix("http://")

    def repository(self, client: Client) -> Repository:
        return open_repository(client, f"{self.host}/x")

    def _answer(self, request: Request) -> Response:
        if request.path == "/v2/":
            return Response(200)
        self.seen.append(request.method)
        self.bodies += [request.body] if request.method == "PATCH" else []
        if prepared := self.answers.get(request.method):
            return prepared.pop(0)
        match request.method:
            case "POST":
                return Response(202, {"Location": "/v2/x/blobs/uploads/1?_state=a"})
            case "PATCH":
                return Response(202, {"Location": "/v2/x/blobs/uploads/1?_state=b"})
            case "PUT":
                self.blobs.add(request.query.get("digest", [""])[0])
                return Response(201)
            case "DELETE":
                return Response(204)
            case "HEAD":
                return Response(200 if request.path.rpartition("/")[2] in self.blobs else 404)
        return Response(404)


@pytest.fixture
def odd() -> Iterator[OddRegistry]:
    odd = OddRegistry()
    odd.server.start()
    yield odd
    odd.server.stop()


def refusal(status: int, code: str = "", message: str = "the reason", **headers: str) -> Response:
    """Return an error response as the distribution spec defines it."""
    errors = {"errors": [{"code": code, "message": message}]}
    return Response(status, headers, json.dumps(errors).encode())


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit_code"),
    [
        (400, "NAME_INVALID", UsageError, 2),
        (404, "NAME_UNKNOWN", NotFoundError, 3),
        (403, "DENIED", NotAuthorizedError, 4),
        (413, "", LlmstackError, 1),
        (400, "DIGEST_INVALID", IntegrityError, 5),
        (405, "UNSUPPORTED", LlmstackError, 1),
        (507, "", LlmstackError, 1),
        (503, "", UnavailableError, 6),
        (429, "TOOMANYREQUESTS", UnavailableError, 6),
    ],
)
def test_errors_when_an_upload_starts(
    odd: OddRegistry, client: Client, status: int, code: str, kind: type[LlmstackError], exit_code: int
):
    odd.answers["POST"] = [refusal(status, code) for _ in range(20)]
    with pytest.raises(kind) as raised:
        odd.repository(client).write_blob(lambda: [b"data"])
    assert raised.value.exit_code == exit_code
    assert str(raised.value) == f"{odd.host}/x: cannot upload a layer: HTTP {status} the reason"
    assert "PATCH" not in odd.seen


@pytest.mark.parametrize("status", [401, 404, 416, 429, 500, 502, 503])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_with_a_lost_session_starts_over(odd: OddRegistry, client: Client, method: str, status: int):
    """Each try reads its data again and deletes the session before; a PUT is first repeated alone."""
    odd.answers[method] = [refusal(status)]
    tries = 1 if method == "PUT" and status >= 429 else 2
    made = []

    def make() -> Iterable[bytes]:
        made.append(1)
        return [b"data"]

    assert odd.repository(client).write_blob(make) == (Digest.of(b"data"), 4)
    assert len(made) == tries
    assert odd.bodies[-1] == b"data"
    assert odd.seen.count("DELETE") == tries - 1


@pytest.mark.parametrize(("method", "sessions"), [("POST", 0), ("PATCH", 5), ("PUT", 1)])
def test_an_upload_fails_when_no_tries_are_left(odd: OddRegistry, client: Client, method: str, sessions: int):
    odd.answers[method] = [refusal(503) for _ in range(100)]
    with pytest.raises(UnavailableError, match="503"):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert odd.seen.count(method) == 5
    assert odd.seen.count("DELETE") == sessions


def test_all_requests_of_an_upload_share_their_tries(odd: OddRegistry, client: Client):
    odd.answers = {method: [refusal(503), refusal(503)] for method in ("POST", "PATCH", "PUT")}
    with pytest.raises(UnavailableError, match="503"):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert [odd.seen.count(method) for method in ("POST", "PATCH", "PUT")] == [5, 3, 1]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(413, "", LlmstackError), (403, "DENIED", NotAuthorizedError), (507, "", LlmstackError)],
)
def test_a_refused_layer_is_not_sent_again(odd: OddRegistry, client: Client, status: int, code: str, kind):
    odd.answers["PATCH"] = [refusal(status, code)]
    with pytest.raises(kind):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert odd.seen.count("PATCH") == 1
    assert odd.seen.count("DELETE") == 1


def test_a_digest_mismatch_is_an_integrity_error(odd: OddRegistry, client: Client):
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID")]
    with pytest.raises(IntegrityError):
        odd.repository(client).write_blob(lambda: [b"data"])


def test_a_manifest_with_a_digest_mismatch_is_sent_again(odd: OddRegistry, client: Client):
    manifest = Index(()).to_raw()
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID")]
    odd.repository(client).put_manifest(manifest, "x")
    assert odd.seen.count("PUT") == 2
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID") for _ in range(100)]
    with pytest.raises(IntegrityError):
        odd.repository(client).put_manifest(manifest, "x")
    assert odd.seen.count("PUT") == 2 + 5


def test_a_manifest_that_arrived_damaged_is_sent_again(odd: OddRegistry, client: Client):
    """With a tag in the URL only the digest in the response shows it."""
    manifest = Index(()).to_raw()
    damaged = {"Docker-Content-Digest": Digest.of(b"damaged")}
    odd.answers["PUT"] = [Response(201, damaged), Response(201, {"Docker-Content-Digest": manifest.digest})]
    odd.repository(client).put_manifest(manifest, "x")
    assert odd.seen.count("PUT") == 2
    odd.answers["PUT"] = [Response(201, damaged) for _ in range(100)]
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        odd.repository(client).put_manifest(manifest, "x")


def test_a_commit_with_a_lost_response_succeeds(odd: OddRegistry, client: Client):
    """The registry handled the PUT, its gateway answered 502, and the repeated PUT finds no session."""
    odd.blobs.add(Digest.of(b"data"))
    odd.answers["PUT"] = [refusal(502), refusal(404, "BLOB_UPLOAD_UNKNOWN")]
    assert odd.repository(client).write_blob(lambda: [b"data"])[0] == Digest.of(b"data")
    assert odd.seen.count("PATCH") == 1


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_a_refused_mount_is_no_error(odd: OddRegistry, client: Client, status: int):
    odd.answers["POST"] = [refusal(status) for _ in range(5 if status == 500 else 1)]
    registries = Registries(client, lookup)
    source = registries.repository(Reference.parse(f"{odd.host}/base"))
    target = registries.repository(Reference.parse(f"{odd.host}/x"), write=True)
    assert target.mount_blob(BLOB, source) is False


def test_only_writes_hint_at_creating_the_repository(odd: OddRegistry, client: Client):
    repository = odd.repository(client)
    manifest = Manifest(BLOB, ()).to_raw()
    for write in (lambda: repository.write_blob(lambda: [b"data"]), lambda: repository.put_manifest(manifest, "x")):
        odd.answers["POST"] = odd.answers["PUT"] = [refusal(404)]
        with pytest.raises(NotFoundError) as refused:
            write()
        assert refused.value.hint == "check the name; some registries require the repository to be created first"
    for read in (lambda: repository.manifest("x"), lambda: repository.digest_of("x")):
        with pytest.raises(NotFoundError) as missing:
            read()
        assert missing.value.hint == "check the name"


@pytest.mark.parametrize("status", [200, 201, 204])
def test_other_success_statuses_of_a_patch_are_accepted(odd: OddRegistry, client: Client, status: int):
    odd.answers["PATCH"] = [Response(status)]
    assert odd.repository(client).write_blob(lambda: [b"data"])[1] == 4


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"errors": 7}', b'{"errors": [7]}', b'{"errors": [{"code": [], "message": {}}]}']
)
def test_errors_in_another_format_show_their_status(odd: OddRegistry, client: Client, body: bytes):
    odd.answers["POST"] = [Response(418, {}, body)]
    with pytest.raises(LlmstackError, match=f"{odd.host}/x: cannot upload a layer: HTTP 418"):
        odd.repository(client).write_blob(lambda: [b"data"])


@pytest.mark.parametrize("tags", [5, "abc", {"a": 1}, [5], ["a", None], [["a"]]])
def test_tags_that_are_no_list_of_strings_are_an_integrity_error(odd: OddRegistry, client: Client, tags: object):
    odd.answers["GET"] = [Response(200, {}, json.dumps({"tags": tags}).encode())]
    with pytest.raises(IntegrityError, match=f"{odd.host}/x: the tag list: must be a list of strings"):
        odd.repository(client).tags()


@pytest.mark.parametrize(
    "body", [b'{"tags": null}', b'{"tags": []}', b"{}", b'{"tags": ["../a", "", "sha256:0", "a/b"]}']
)
def test_invalid_tags_are_not_listed(odd: OddRegistry, client: Client, body: bytes):
    odd.answers["GET"] = [Response(200, {}, body)]
    assert odd.repository(client).tags() == []


@pytest.mark.parametrize(
    ("tags_per_page", "limit", "pages"),
    [
        (1, "more than 100 pages with fewer than 10 entries on average", 100),
        (10, "more than 150 pages", 150),
        (20, "more than 2,500 entries", 126),
    ],
)
def test_endless_pages_of_tags_are_an_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, tags_per_page: int, limit: str, pages: int
):
    monkeypatch.setattr("llmstack.oci.repository.MAX_TAGS", 2_500)  # 500,000 would take too long
    monkeypatch.setattr("llmstack.oci.repository.MAX_TAG_PAGES", 150)  # 10,000 would take too long
    requests = []

    def answer(request: Request) -> Response:
        requests.append(request)
        number = int(request.query.get("last", ["0"])[0])
        link = f'</v2/x/tags/list?last={number + 1}>; rel="next"'
        tags = [f"t{number}-{place}" for place in range(tags_per_page)]
        return Response(200, {"Link": link}, json.dumps({"tags": tags}).encode())

    endless = WebServer(answer)
    endless.start()
    try:
        host = endless.url.removeprefix("http://")
        with pytest.raises(UnavailableError, match=f"^{host}/x: the tag list: {limit}$"):
            open_repository(client, f"{host}/x").tags()
    finally:
        endless.stop()
    assert len([request for request in requests if "/tags/" in request.path]) == pages


# Faults below HTTP


class Scripted:
    """Answers each request with `answer(head)`, on its own connection and without reading its body."""

    def __init__(self, answer: Callable[[str], str], context: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if self._context is None:
                    self._serve_one(connection)
                    continue
                with self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                    secure.do_handshake()
                    self._serve_one(secure)

    def _serve_one(self, connection: socket.socket) -> None:
        head = connection.recv(4096).decode("latin-1")
        self.heads.append(head)
        answer = f"HTTP/1.1 {self._answer(head)}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(answer.encode())


def test_an_upload_that_is_answered_before_its_end_is_not_committed(client: Client):
    """Otherwise a proxy that answers too early would leave a truncated layer with a valid digest."""
    answers = {
        "GET": "200 OK",
        "POST": "202 Accepted\r\nLocation: /v2/x/1",
        "PATCH": "202 Accepted",
        "PUT": "201 Created",
    }
    with closing(Scripted(lambda head: answers.get(head.partition(" ")[0], "404 Not Found"))) as early:
        repository = open_repository(client, f"{early.host}/x")
        with pytest.raises(UnavailableError):
            repository.write_blob(lambda: (bytes(1_000_000) for _ in range(100)))
    assert [head for head in early.heads if head.startswith("PATCH")]
    assert not [head for head in early.heads if head.startswith("PUT")]


def test_a_layer_is_not_sent_over_plain_http_after_https(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A registry behind a TLS proxy may send http:// in its Location."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def answer(head: str) -> str:
        return f"202 Accepted\r\nLocation: http://{site.host}/v2/x/1" if head.startswith("POST") else "200 OK"

    site = Scripted(answer, context)
    with closing(site):
        repository = open_repository(client, f"{site.host}/x")
        with pytest.raises(UnavailableError, match="not secure"):
            repository.write_blob(lambda: [b"data"])
    assert not [head for head in site.heads if head.startswith("PATCH")]
