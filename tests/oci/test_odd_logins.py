"""Authentication with registries and storage services that behave unusually."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmstack.errors import NotAuthorizedError
from llmstack.net import Client
from llmstack.oci.repository import Repository
from tests.oci.repositories import BLOB, DATA, open_repository
from tests.support.webserver import Request, Response, WebServer

BASIC = f"Basic {base64.b64encode(b'me:secret-of-the-registry').decode()}"
UPLOAD = {"POST": 202, "PATCH": 202, "PUT": 201}


@contextmanager
def serving(answer: Callable[[Request], Response]) -> Iterator[WebServer]:
    server = WebServer(answer)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def log_in(monkeypatch: pytest.MonkeyPatch, directory: Path, host: str) -> None:
    (directory / "config.json").write_text(json.dumps({"auths": {host: {"auth": BASIC.removeprefix("Basic ")}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))


def repository(client: Client, server: WebServer, host: str = "127.0.0.1") -> Repository:
    return open_repository(client, f"{host}:{server.url.rpartition(':')[2]}/x")


def uploading(request: Request, location: str) -> Response:
    """Answer a request of an upload; each one requires authentication."""
    if request.headers.get("authorization") != BASIC:
        return Response(401, {"WWW-Authenticate": 'Basic realm="here"'})
    return Response(UPLOAD.get(request.method, 404), {"Location": location})


@pytest.mark.parametrize(
    "challenge", ['Bearer realm="{storage}/token"', "Bearer authorization_uri=https://login.example"]
)
def test_a_storage_service_does_not_get_the_credentials_of_the_registry(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, challenge: str
):
    requests: list[Request] = []

    def answer_storage(request: Request) -> Response:
        requests.append(request)
        return Response(401, {"WWW-Authenticate": challenge.format(storage=storage.url)})

    def answer_registry(request: Request) -> Response:
        if request.method == "GET" and "/blobs/" in request.path:
            return Response(307, {"Location": f"{storage.url}/blob"})
        return Response(200)

    with serving(answer_storage) as storage, serving(answer_registry) as registry:
        log_in(monkeypatch, tmp_path, registry.url.removeprefix("http://"))
        store = repository(client, registry)
        with pytest.raises(NotAuthorizedError):
            list(store.read_blob(BLOB))
        assert store.has_blob(BLOB.digest)
    assert [request.path for request in requests] == ["/blob"]
    assert "authorization" not in requests[0].headers


@pytest.mark.parametrize("host", ["LOCALHOST", "LocalHost"])
def test_upper_case_in_the_host_does_not_change_the_origin(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
):
    """The registry sends absolute URLs with the host of the Host header, which is in lower case."""
    with serving(lambda request: uploading(request, f"http://{request.headers['host']}/v2/x/1")) as registry:
        store = repository(client, registry, host)
        log_in(monkeypatch, tmp_path, store.name.removesuffix("/x"))
        assert store.write_blob(lambda: [DATA]) == (BLOB.digest, len(DATA))


def test_the_location_of_an_upload_may_be_relative(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    paths: list[str] = []

    def answer(request: Request) -> Response:
        paths.append(f"{request.method} {request.path}")
        return uploading(request, "1?_state=a")

    with serving(answer) as registry:
        log_in(monkeypatch, tmp_path, registry.url.removeprefix("http://"))
        repository(client, registry).write_blob(lambda: [DATA])
    assert paths[-2:] == ["PATCH /v2/x/blobs/uploads/1", "PUT /v2/x/blobs/uploads/1"]
