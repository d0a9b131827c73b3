"""A registry's repository as a BlobStore: against real registries, and against what real ones do at their worst."""

from __future__ import annotations

import base64
import contextlib
import json
import os
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
    NotAuthorisedError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from llmstack.net import Client
from llmstack.net.client import tls_context
from llmstack.oci.auth import Challenge, Credentials, check_realm
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries, Repository
from llmstack.oci.spec import CONFIG, INDEX, LAYER_TAR, Descriptor, Index, Manifest
from llmstack.oci.store import copy_blob, read_verified, write_bytes
from tests.support.registry import Registry
from tests.support.token_server import REFRESH_TOKEN
from tests.support.webserver import Request, Response, WebServer

KINDS = ["registry", "secure_registry", "token_registry"]
DATA = os.urandom(700_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(DATA), len(DATA))
CONFIG_DATA = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


@pytest.fixture
def client() -> Iterator[Client]:
    tls_context.cache_clear()
    with closing(Client(retry_wait=0.01)) as client:
        yield client
    tls_context.cache_clear()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that logs in to a registry as docker login does, and trusts its CA."""

    def log_in(registry: Registry) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config(tmp_path / "docker")))
        if registry.ca_file:
            monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca_file))

    return log_in


def open_repository(client: Client, name: str, *, write: bool = True, **options) -> Repository:
    return Registries(client, lookup, **options).repository(Reference.parse(name), write=write)


@pytest.fixture(params=KINDS)
def repository(request: pytest.FixtureRequest, client: Client, login) -> Repository:
    registry: Registry = request.getfixturevalue(request.param)
    login(registry)
    return open_repository(client, f"{registry.namespace()}/models")


def put_image(repository: Repository, tag: str, data: bytes = DATA) -> Manifest:
    write_bytes(repository, data)
    write_bytes(repository, CONFIG_DATA)
    config = Descriptor(CONFIG, Digest.of(CONFIG_DATA), len(CONFIG_DATA))
    manifest = Manifest(config, (Descriptor(LAYER_TAR, Digest.of(data), len(data)),))
    repository.put_manifest(manifest.document(), tag)
    return manifest


def test_everything_a_store_does(repository: Repository):
    assert repository.tags() == []
    assert not repository.has_blob(BLOB.digest)
    with pytest.raises(NotFoundError):
        repository.manifest("latest")
    with pytest.raises(NotFoundError):
        b"".join(repository.read_blob(BLOB))

    digest, size = repository.write_blob(lambda: [DATA[:100], DATA[100:]])
    assert (digest, size) == (BLOB.digest, BLOB.size)
    assert repository.has_blob(digest)
    assert read_verified(repository, BLOB, len(DATA)) == DATA
    assert b"".join(repository.read_blob(BLOB, 5, 500_000)) == DATA[5:500_000]
    assert b"".join(repository.read_blob(BLOB, 699_999)) == DATA[-1:]
    assert b"".join(repository.read_blob(BLOB, 7, 7)) == b""

    manifest = put_image(repository, "latest")
    document = repository.manifest("latest")
    assert document == manifest.document()
    assert repository.manifest(document.digest) == document
    index = Index((document.descriptor,)).document()
    repository.put_manifest(index, "all")
    assert repository.manifest("all").media_type == INDEX
    repository.put_manifest(index)
    assert repository.tags() == ["all", "latest"]


def test_an_empty_blob(repository: Repository):
    digest, size = repository.write_blob(list)
    assert (digest, size) == (Digest.of(b""), 0)
    assert repository.has_blob(digest)


def test_what_the_source_raises_passes_through_and_leaves_no_upload(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    made = []

    def broken() -> Iterable[bytes]:
        made.append(1)
        yield DATA
        raise IntegrityError("the source is broken", side="source")

    with pytest.raises(IntegrityError, match="the source is broken"):
        repository.write_blob(broken)
    assert len(made) == 1
    assert not repository.has_blob(BLOB.digest)
    assert uploads(registry, repository) == []


def uploads(registry: Registry, repository: Repository) -> list[Path]:
    """Return the bytes of uploads that are neither finished nor cancelled; distribution 2.8 forgets empty folders."""
    place = registry.root / "docker/registry/v2/repositories" / repository.name.partition("/")[2]
    return list(place.glob("_uploads/*/data"))


def test_an_interrupt_out_of_the_source_passes_through_and_leaves_no_upload(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")

    def broken() -> Iterable[bytes]:
        yield DATA
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repository.write_blob(broken)
    assert uploads(registry, repository) == []


def test_a_manifest_whose_blobs_are_missing_is_refused(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    put_image(repository, "one")
    lost = Manifest(BLOB, (Descriptor(LAYER_TAR, Digest.of(b"lost"), 4),)).document()
    with pytest.raises(NotFoundError) as raised:
        repository.put_manifest(lost, "two")
    assert "run the command again" in (raised.value.hint or "")
    assert repository.tags() == ["one"]


def test_a_damaged_manifest_is_not_believed(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    document = put_image(repository, "x", b"of this test alone").document()
    file = registry.blob_file(document.digest)
    file.write_bytes(file.read_bytes().replace(b"tar", b"rat"))
    for reference in ("x", document.digest):
        with pytest.raises(LlmstackError) as raised:
            repository.manifest(reference)
        assert not isinstance(raised.value, UsageError)


def test_a_damaged_blob_is_found(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    data = b"to be damaged" * 100
    write_bytes(repository, data)
    blob = Descriptor(LAYER_TAR, Digest.of(data), len(data))
    registry.blob_file(blob.digest).write_bytes(data.replace(b"damaged", b"DAMAGED"))
    with pytest.raises(IntegrityError, match="does not match"):
        read_verified(repository, blob, len(data))
    other = open_repository(client, f"{registry.namespace()}/other")
    with pytest.raises(IntegrityError, match="does not match"):
        copy_blob(blob, _NotARepository(repository), other)
    assert uploads(registry, other) == []


class _NotARepository:
    """A reader that cannot be mounted from."""

    def __init__(self, repository: Repository) -> None:
        self.read_blob = repository.read_blob
        self.name = repository.name


def test_blobs_are_mounted_from_another_repository_of_the_registry(registry: Registry, client: Client):
    registries = Registries(client, lookup)
    space = registry.namespace()
    source = registries.repository(Reference.parse(f"{space}/base"))
    write_bytes(registries.repository(Reference.parse(f"{space}/base"), write=True), DATA)
    target = registries.repository(Reference.parse(f"{space}/models"), write=True)
    registry.served()
    assert copy_blob(BLOB, source, target) is False
    requests = [(served.method, served.target.partition("?")[0].rpartition("/v2/")[2]) for served in registry.served()]
    path = f"{target.name.partition('/')[2]}/blobs"
    assert requests == [("HEAD", f"{path}/{BLOB.digest}"), ("POST", f"{path}/uploads/")]
    assert target.has_blob(BLOB.digest)


def test_a_mount_asks_for_the_right_to_pull_from_there(token_registry: Registry, client: Client, login):
    login(token_registry)
    registries = Registries(client, lookup)
    space = token_registry.namespace()
    write_bytes(registries.repository(Reference.parse(f"{space}/base"), write=True), DATA)
    source = registries.repository(Reference.parse(f"{space}/base"))
    target = registries.repository(Reference.parse(f"{space}/models"), write=True)
    assert copy_blob(BLOB, source, target) is False
    path = space.partition("/")[2]
    assert [f"repository:{path}/models:pull,push", f"repository:{path}/base:pull"] in token_registry.tokens.scopes


def test_a_mount_that_the_registry_will_not_make_becomes_an_upload(registry: Registry, client: Client):
    """The source repository does not hold the blob, so the real registry opens an upload session instead (202)."""
    registries = Registries(client, lookup)
    space = registry.namespace()
    data = os.urandom(1000)
    blob = Descriptor(LAYER_TAR, Digest.of(data), len(data))
    target = registries.repository(Reference.parse(f"{space}/models"), write=True)
    empty = registries.repository(Reference.parse(f"{space}/empty"))
    assert target.adopt_blob(blob, empty) is False
    assert uploads(registry, target) == []

    other = registries.repository(Reference.parse(f"{registry.namespace()}/elsewhere"), write=True)
    write_bytes(other, data)
    assert copy_blob(blob, _NotARepository(other), target) is True
    assert target.has_blob(blob.digest)


def test_tags_over_many_pages(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    document = put_image(repository, "t0").document()
    for number in range(1, 25):
        repository.put_manifest(document, f"t{number}")
    paging = WebServer(lambda request: _page(request, [f"t{number}" for number in range(25)]))
    paging.start()
    try:
        paged = open_repository(client, paging.url.removeprefix("http://") + "/x/models")
        assert paged.tags() == repository.tags() == sorted(f"t{number}" for number in range(25))
    finally:
        paging.stop()


def _page(request: Request, tags: list[str]) -> Response:
    """Answer as distribution does, at most ten tags a page, whatever `n` says."""
    if request.path == "/v2/":
        return Response(200)
    start = tags.index(request.query["last"][0]) + 1 if "last" in request.query else 0
    page = tags[start : start + 10]
    more = {"Link": f'<{request.raw_path}?last={page[-1]}&n=10>; rel="next"'} if start + 10 < len(tags) else {}
    return Response(200, more, json.dumps({"name": "x", "tags": page}).encode())


def test_tags_that_page_in_a_circle_end(client: Client):
    body = json.dumps({"tags": ["a"]}).encode()
    circle = WebServer(lambda request: Response(200, {"Link": f'<{request.raw_path}>; rel="next"'}, body))
    circle.start()
    try:
        assert open_repository(client, circle.url.removeprefix("http://") + "/x").tags() == ["a"]
    finally:
        circle.stop()


# Logins


@pytest.mark.parametrize("kind", ["secure_registry", "token_registry"])
def test_without_a_login_it_says_how_to_log_in(kind: str, request: pytest.FixtureRequest, client: Client, monkeypatch):
    registry: Registry = request.getfixturevalue(kind)
    if registry.ca_file:
        monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca_file))
    repository = open_repository(client, f"{registry.namespace()}/models")
    for operation in (lambda: repository.manifest("x"), lambda: repository.write_blob(lambda: [b"x"])):
        with pytest.raises(NotAuthorisedError) as raised:
            operation()
        assert raised.value.hint == f"log in with: docker login {registry.host}"


@pytest.mark.parametrize("kind", ["secure_registry", "token_registry"])
def test_a_wrong_password_is_told_and_not_repeated(
    kind: str, request: pytest.FixtureRequest, client: Client, login, tmp_path: Path
):
    registry: Registry = request.getfixturevalue(kind)
    login(registry)
    auth = base64.b64encode(b"carrier:wr0ng-secret").decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    with pytest.raises(NotAuthorisedError) as raised:
        open_repository(client, f"{registry.namespace()}/models").manifest("x")
    assert "wr0ng" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == 4


def test_a_credential_helper_is_asked(secure_registry: Registry, client: Client, monkeypatch, tmp_path: Path):
    helper = tmp_path / "bin/docker-credential-rig"
    helper.parent.mkdir()
    answer = {"ServerURL": secure_registry.host, "Username": secure_registry.user, "Secret": secure_registry.password}
    helper.write_text(f"#!/bin/sh\nread server\necho \"$server\" >> '{tmp_path}/asked'\necho '{json.dumps(answer)}'\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {secure_registry.host: "rig"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SSL_CERT_FILE", str(secure_registry.ca_file))
    repository = open_repository(client, f"{secure_registry.namespace()}/models")
    write_bytes(repository, DATA)
    assert repository.has_blob(BLOB.digest)
    assert (tmp_path / "asked").read_text().split() == [secure_registry.host]


def test_an_identity_token_is_traded_for_tokens(token_registry: Registry, client: Client, monkeypatch, tmp_path: Path):
    auth = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    config = {"auths": {token_registry.host: {"auth": auth, "identitytoken": REFRESH_TOKEN}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    repository = open_repository(client, f"{token_registry.namespace()}/models")
    put_image(repository, "x")
    assert repository.tags() == ["x"]


def test_one_token_serves_many_requests(token_registry: Registry, client: Client, login):
    login(token_registry)
    token_registry.tokens.scopes.clear()
    repository = open_repository(client, f"{token_registry.namespace()}/models")
    put_image(repository, "x")
    repository.manifest("x")
    path = repository.name.partition("/")[2]
    assert token_registry.tokens.scopes == [[f"repository:{path}:pull,push"]]


def test_an_unknown_ca_stops_it_before_a_password_is_sent(
    secure_registry: Registry, login, client: Client, monkeypatch
):
    login(secure_registry)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UnavailableError, match="TLS") as raised:
        open_repository(client, f"{secure_registry.namespace()}/models").manifest("x")
    assert "SSL_CERT_FILE" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("ftp://auth.example/token", "https://registry.example"),
        ("http://auth.example/token", "https://registry.example"),
        ("https://10.0.0.1/token", "https://registry.example"),
        ("https://127.0.0.1/token", "https://registry.example"),
        ("https://[::1]/token", "https://registry.example"),
        ("https://169.254.169.254/latest", "https://registry.example"),
        ("https://localhost/token", "https://registry.example"),
        ("https://127.1/token", "https://registry.example"),
        ("https://2130706433/token", "https://registry.example"),
        ("https://0x7f.0.0.1/token", "https://registry.example"),
        ("https://[::ffff:10.0.0.1]/token", "https://registry.example"),
        ("https://auth.localhost/token", "https://registry.example"),
        ("https://user:pass@auth.example/token", "https://registry.example"),
        ("", "https://registry.example"),
        ("https://[::1/token", "https://registry.example"),
    ],
)
def test_credentials_do_not_go_to_just_any_token_server(realm: str, registry: str):
    with pytest.raises(UnavailableError):
        check_realm(realm, registry)


def test_usual_token_servers_are_fine():
    for realm, registry in (
        ("https://auth.docker.io/token", "https://registry-1.docker.io"),
        ("http://127.0.0.1:1/token", "http://127.0.0.1:2"),
        ("https://10.0.0.1/token", "https://10.0.0.2"),
    ):
        assert check_realm(realm, registry) == realm


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Bearer realm="https://a/t",service="s, t",scope="r:x:pull,push"', "bearer", ("https://a/t", "s, t")),
        ("bearer realm=https://a/t , service=s", "bearer", ("https://a/t", "s")),
        (r'Basic realm="a \"b\" c"', "basic", ('a "b" c', None)),
        ("Negotiate", "negotiate", (None, None)),
        ("", "", (None, None)),
    ],
)
def test_challenges(header: str, scheme: str, parameters: tuple[str | None, str | None]):
    challenge = Challenge.parse(header)
    assert challenge.scheme == scheme
    assert (challenge.parameters.get("realm"), challenge.parameters.get("service")) == parameters


def test_credentials_do_not_show_in_what_is_printed():
    assert "secret" not in repr(Credentials("me", "secret", "secret"))


# A registry at its worst


class OddRegistry:
    """A registry that answers as a test tells it to, and remembers what it got; uploads are otherwise accepted."""

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
        if waiting := self.answers.get(request.method):
            return waiting.pop(0)
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
    """Return an error in the registry's form."""
    errors = {"errors": [{"code": code, "message": message}]}
    return Response(status, headers, json.dumps(errors).encode())


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit_code"),
    [
        (400, "NAME_INVALID", UsageError, 2),
        (404, "NAME_UNKNOWN", NotFoundError, 3),
        (403, "DENIED", NotAuthorisedError, 4),
        (413, "", LlmstackError, 1),
        (400, "DIGEST_INVALID", IntegrityError, 5),
        (405, "UNSUPPORTED", LlmstackError, 1),
        (507, "", LlmstackError, 1),
        (503, "", UnavailableError, 6),
        (429, "TOOMANYREQUESTS", UnavailableError, 6),
    ],
)
def test_errors_of_opening_an_upload(
    odd: OddRegistry, client: Client, status: int, code: str, kind: type[LlmstackError], exit_code: int
):
    odd.answers["POST"] = [refusal(status, code) for _ in range(20)]
    with pytest.raises(kind) as raised:
        odd.repository(client).write_blob(lambda: [b"data"])
    assert raised.value.exit_code == exit_code
    assert f"{odd.host} answers {status} the reason" in str(raised.value)
    assert "PATCH" not in odd.seen


@pytest.mark.parametrize("status", [401, 404, 416, 429, 500, 502, 503])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_whose_session_is_lost_starts_over(odd: OddRegistry, client: Client, method: str, status: int):
    """Each try makes its bytes anew, and gives up the session before; a PUT is repeated alone where that may help."""
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
def test_an_upload_that_fails_again_and_again_is_given_up(odd: OddRegistry, client: Client, method: str, sessions: int):
    odd.answers[method] = [refusal(503) for _ in range(100)]
    with pytest.raises(UnavailableError, match="503"):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert odd.seen.count(method) == 5
    assert odd.seen.count("DELETE") == sessions


def test_all_requests_of_an_upload_share_its_tries(odd: OddRegistry, client: Client):
    """Else each PATCH would bring tries of its own for the POST before it and the PUT after it."""
    odd.answers = {method: [refusal(503), refusal(503)] for method in ("POST", "PATCH", "PUT")}
    with pytest.raises(UnavailableError, match="503"):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert [odd.seen.count(method) for method in ("POST", "PATCH", "PUT")] == [5, 3, 1]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(413, "", LlmstackError), (403, "DENIED", NotAuthorisedError), (507, "", LlmstackError)],
)
def test_a_layer_that_is_not_wanted_is_not_sent_again(odd: OddRegistry, client: Client, status: int, code: str, kind):
    odd.answers["PATCH"] = [refusal(status, code)]
    with pytest.raises(kind):
        odd.repository(client).write_blob(lambda: [b"data"])
    assert odd.seen.count("PATCH") == 1
    assert odd.seen.count("DELETE") == 1


def test_bytes_that_changed_on_the_way_are_an_integrity_error(odd: OddRegistry, client: Client):
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID")]
    with pytest.raises(IntegrityError):
        odd.repository(client).write_blob(lambda: [b"data"])


def test_a_manifest_whose_digest_is_doubted_is_written_again(odd: OddRegistry, client: Client):
    document = Index(()).document()
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID")]
    odd.repository(client).put_manifest(document, "x")
    assert odd.seen.count("PUT") == 2
    odd.answers["PUT"] = [refusal(400, "DIGEST_INVALID") for _ in range(100)]
    with pytest.raises(IntegrityError):
        odd.repository(client).put_manifest(document, "x")
    assert odd.seen.count("PUT") == 2 + 5


def test_a_manifest_that_arrived_damaged_is_written_again(odd: OddRegistry, client: Client):
    """By its tag alone a registry cannot tell; the digest that it answers with does."""
    document = Index(()).document()
    damaged = {"Docker-Content-Digest": Digest.of(b"damaged")}
    odd.answers["PUT"] = [Response(201, damaged), Response(201, {"Docker-Content-Digest": document.digest})]
    odd.repository(client).put_manifest(document, "x")
    assert odd.seen.count("PUT") == 2
    odd.answers["PUT"] = [Response(201, damaged) for _ in range(100)]
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        odd.repository(client).put_manifest(document, "x")


def test_a_commit_whose_answer_was_lost_counts(odd: OddRegistry, client: Client):
    """The registry carried the PUT out, its gateway answered 502, and the repeated PUT finds no session."""
    odd.blobs.add(Digest.of(b"data"))
    odd.answers["PUT"] = [refusal(502), refusal(404, "BLOB_UPLOAD_UNKNOWN")]
    assert odd.repository(client).write_blob(lambda: [b"data"])[0] == Digest.of(b"data")
    assert odd.seen.count("PATCH") == 1


@pytest.mark.parametrize("status", [403, 404, 405, 500])
def test_a_registry_that_refuses_mounts_gets_the_bytes(odd: OddRegistry, client: Client, status: int):
    odd.answers["POST"] = [refusal(status) for _ in range(5 if status == 500 else 1)]
    registries = Registries(client, lookup)
    source = registries.repository(Reference.parse(f"{odd.host}/base"))
    target = registries.repository(Reference.parse(f"{odd.host}/x"), write=True)
    assert target.adopt_blob(BLOB, source) is False


@pytest.mark.parametrize("status", [200, 201, 204])
def test_some_registries_answer_a_patch_in_their_own_way(odd: OddRegistry, client: Client, status: int):
    odd.answers["PATCH"] = [Response(status)]
    assert odd.repository(client).write_blob(lambda: [b"data"])[1] == 4


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"errors": 7}', b'{"errors": [7]}', b'{"errors": [{"code": [], "message": {}}]}']
)
def test_errors_in_another_form_are_told_by_their_status(odd: OddRegistry, client: Client, body: bytes):
    odd.answers["POST"] = [Response(418, {}, body)]
    with pytest.raises(LlmstackError, match=f"{odd.host} answers 418"):
        odd.repository(client).write_blob(lambda: [b"data"])


# What needs more than HTTP done right


class Scripted:
    """Answers each request, on a connection of its own and without reading its body, as `answer(head)` says."""

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


def test_an_upload_that_is_answered_before_it_is_whole_is_not_committed(client: Client):
    """A proxy that answers too early would otherwise leave a layer with a digest of half the bytes."""
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


def test_a_layer_does_not_leave_tls(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A registry behind a proxy may not know that it speaks TLS, and name where to upload to without it."""
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
