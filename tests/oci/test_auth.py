"""Authentication with registries: which credentials are sent where, and errors about them."""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError, NotAuthorizedError, UnavailableError
from llmstack.net import Cancelled, Client
from llmstack.net.network_errors import TlsError
from llmstack.oci.auth import Challenge, Credentials, check_realm
from llmstack.oci.repository import Repository
from llmstack.oci.store import write_bytes
from tests.oci.repositories import BLOB, DATA, open_repository, put_image, uploads
from tests.support.registry import Registry
from tests.support.token_server import REFRESH_TOKEN
from tests.support.webserver import Disturbance, Request, Response, WebServer


@pytest.mark.parametrize("fixture", ["secure_registry", "token_registry"])
def test_missing_credentials_give_a_hint(fixture: str, request: pytest.FixtureRequest, client: Client, monkeypatch):
    registry: Registry = request.getfixturevalue(fixture)
    if registry.ca_file:
        monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca_file))
    repository = open_repository(client, f"{registry.namespace()}/models")
    for operation in (lambda: repository.manifest("x"), lambda: repository.write_blob(lambda: [b"x"])):
        with pytest.raises(NotAuthorizedError) as raised:
            operation()
        assert raised.value.hint == f"log in with: docker login {registry.host}"


@pytest.mark.parametrize("fixture", ["secure_registry", "token_registry"])
def test_a_wrong_password_is_not_shown(
    fixture: str, request: pytest.FixtureRequest, client: Client, login, tmp_path: Path
):
    registry: Registry = request.getfixturevalue(fixture)
    login(registry)
    auth = base64.b64encode(b"carrier:wr0ng-secret").decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    with pytest.raises(NotAuthorizedError) as raised:
        open_repository(client, f"{registry.namespace()}/models").manifest("x")
    assert "wr0ng" not in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == 4


def test_a_credential_helper_is_used(secure_registry: Registry, client: Client, monkeypatch, tmp_path: Path):
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


def test_an_identity_token_is_exchanged_for_tokens(
    token_registry: Registry, client: Client, monkeypatch, tmp_path: Path
):
    auth = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    config = {"auths": {token_registry.host: {"auth": auth, "identitytoken": REFRESH_TOKEN}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    repository = open_repository(client, f"{token_registry.namespace()}/models")
    put_image(repository, "x")
    assert repository.tags() == ["x"]


def test_a_token_is_used_for_many_requests(token_registry: Registry, client: Client, login):
    login(token_registry)
    token_registry.tokens.scopes.clear()
    repository = open_repository(client, f"{token_registry.namespace()}/models")
    put_image(repository, "x")
    repository.manifest("x")
    path = repository.name.partition("/")[2]
    assert token_registry.tokens.scopes == [[f"repository:{path}:pull,push"]]


def test_a_cancelled_upload_is_deleted_with_its_own_token(token_registry: Registry, client: Client, login):
    """distribution requires the permission to delete for it."""
    login(token_registry)
    repository = open_repository(client, f"{token_registry.host}/cancelled/model")

    def chunks() -> Iterator[bytes]:
        yield bytes(100_000)
        assert uploads(token_registry, repository)
        client.cancel.set()
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        repository.write_blob(chunks)
    assert not uploads(token_registry, repository)


def test_only_one_cancelled_upload_waits_for_a_token_server_that_does_not_answer(client: Client):
    requested: list[str] = []

    def answer(request: Request) -> Response:
        if request.path == "/token":
            requested.append(request.query["scope"][0])
            if client.cancel.is_set():
                return Response(200, {}, b"{}", Disturbance(stall_after=0))
            return Response(200, {}, b'{"token": "a"}')
        if "authorization" not in request.headers or request.method == "DELETE":
            return Response(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
        return Response(202, {"Location": request.path})

    def chunks() -> Iterator[bytes]:
        yield b"data"
        client.cancel.set()
        raise Cancelled("cancelled")

    registry = WebServer(answer)
    registry.start()
    client.timeout = 0.5
    try:
        repository = open_repository(client, f"{registry.url.removeprefix('http://')}/x")
        for _ in range(3):
            client.cancel.clear()
            with pytest.raises(Cancelled):
                repository.write_blob(chunks)
    finally:
        registry.stop()
    assert requested == ["repository:x:pull,push", "repository:x:pull,push,delete"]


def test_no_password_is_sent_to_a_server_with_an_unknown_ca(
    secure_registry: Registry, login, client: Client, monkeypatch
):
    login(secure_registry)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TlsError) as raised:
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
        (" https://auth.example/token", "https://registry.example"),
    ],
)
def test_credentials_are_not_sent_to_an_unsafe_token_server(realm: str, registry: str):
    with pytest.raises(UnavailableError):
        check_realm(realm, registry)


def test_safe_token_servers_are_accepted():
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
        # The values of several headers are joined; Gitea sends two.
        ('Bearer realm="https://a/t",service="s", Basic realm="A registry, ours"', "bearer", ("https://a/t", "s")),
        ('Basic realm="ours", Bearer realm="https://a/t"', "bearer", ("https://a/t", None)),
        ('Negotiate, Basic realm="ours"', "basic", ("ours", None)),
        ('Bearer realm="https://a/t",error_description="no, not you"', "bearer", ("https://a/t", None)),
        ('Bearer realm="https://a/t?x=1",service = "s', "bearer", ("https://a/t?x=1", "s")),
        ("Bearer realm=https://a/t?x=1,service=", "bearer", ("https://a/t?x=1", "")),
        ('="", Basic realm=""', "basic", ("", None)),
        ("", "", (None, None)),
    ],
)
def test_challenge(header: str, scheme: str, parameters: tuple[str | None, str | None]):
    challenge = Challenge.parse(header)
    assert challenge.scheme == scheme
    assert (challenge.parameters.get("realm"), challenge.parameters.get("service")) == parameters


@pytest.mark.parametrize("unit", ["a", "a ", "a=", 'a="', '"', "=", " ", ",", 'a="\\'])
def test_a_challenge_is_parsed_in_linear_time(unit: str):
    """With quadratic time it would take hours."""
    began = time.process_time()
    Challenge.parse(unit * (1_000_000 // len(unit)) + "!")
    assert time.process_time() - began < 10


@pytest.fixture
def registry_with_token(client: Client) -> Iterator[Callable[[str], Repository]]:
    """Return a function that opens a repository in a registry whose token server sends the given JSON."""
    body = b""

    def answer(request: Request) -> Response:
        if request.path == "/token":
            return Response(200, {}, body)
        if "authorization" not in request.headers:
            return Response(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
        return Response(200, {}, b'{"tags": ["a"]}')

    def open_with(json_text: str) -> Repository:
        nonlocal body
        body = json_text.encode()
        return open_repository(client, f"{registry.url.removeprefix('http://')}/x", write=False)

    registry = WebServer(answer)
    registry.start()
    yield open_with
    registry.stop()


def test_a_compressed_response_of_a_token_server_is_decoded(client: Client):
    def answer(request: Request) -> Response:
        if request.path == "/token":
            return Response(200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"token": "a"}'))
        if "authorization" not in request.headers:
            return Response(401, {"WWW-Authenticate": f'Bearer realm="{registry.url}/token"'})
        return Response(200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"tags": ["a"]}'))

    registry = WebServer(answer)
    registry.start()
    try:
        assert open_repository(client, f"{registry.url.removeprefix('http://')}/x", write=False).tags() == ["a"]
    finally:
        registry.stop()


@pytest.mark.parametrize("character", [*map(chr, [*range(9), *range(10, 32), 127]), "\u20ac"])
def test_a_token_with_invalid_characters_is_not_shown(registry_with_token, character: str):
    repository = registry_with_token(json.dumps({"token": f"s3cr3t{character}s3cr3t"}))
    with pytest.raises(UnavailableError, match="the token has invalid characters") as raised:
        repository.tags()
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("lifetime", [str(2**63 - 1), "1e300", "-1", "0", "null", '"60"', "[]", "1"])
def test_an_unusual_lifetime_of_a_token_is_accepted(registry_with_token, lifetime: str):
    assert registry_with_token(f'{{"token": "a", "expires_in": {lifetime}}}').tags() == ["a"]


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"token": 5}', '{"token": ""}', '{"token": "s3cr3t', '{"token": "s3cr3t\\ud800"}']
    + [f'{{"token": "s3cr3t", "expires_in": {lifetime}}}' for lifetime in ("9" * 400, "9" * 5000, "1e400", "NaN")],
    ids=range(11),
)
def test_an_invalid_response_of_a_token_server_is_an_error(registry_with_token, body: str):
    with pytest.raises((UnavailableError, IntegrityError), match="token server") as raised:
        registry_with_token(body).tags()
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_repr_of_credentials_has_no_secrets():
    assert "secret" not in repr(Credentials("me", "secret", "secret"))
