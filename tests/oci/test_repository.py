"""A repository in a registry as a BlobStore, against real registries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import pytest

from llmstack.engine.credentials import lookup
from llmstack.errors import (
    IntegrityError,
    LlmstackError,
    NotFoundError,
    UsageError,
)
from llmstack.net import Cancelled, Client
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries, Repository
from llmstack.oci.spec import INDEX, LAYER_TAR, Descriptor, Index, Manifest
from llmstack.oci.store import copy_blob, read_verified, write_bytes
from tests.oci.repositories import BLOB, DATA, open_repository, put_image, uploads
from tests.support.registry import Registry
from tests.support.sink import Sink
from tests.support.webserver import Request, Response, WebServer

FIXTURES = ["registry", "secure_registry", "token_registry"]


@pytest.fixture(params=FIXTURES)
def repository(request: pytest.FixtureRequest, client: Client, login) -> Repository:
    registry: Registry = request.getfixturevalue(request.param)
    login(registry)
    return open_repository(client, f"{registry.namespace()}/models")


def test_all_operations(repository: Repository):
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
    raw = repository.manifest("latest")
    assert raw == manifest.to_raw()
    assert repository.manifest(raw.digest) == raw
    index = Index((raw.descriptor,)).to_raw()
    repository.put_manifest(index, "all")
    assert repository.manifest("all").media_type == INDEX
    repository.put_manifest(index)
    assert repository.tags() == ["all", "latest"]


def test_an_empty_blob(repository: Repository):
    digest, size = repository.write_blob(list)
    assert (digest, size) == (Digest.of(b""), 0)
    assert repository.has_blob(digest)


def test_an_exception_from_the_chunks_passes_through_and_leaves_no_upload(registry: Registry, client: Client):
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


def test_other_bytes_than_expected_are_not_stored(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    wrong = Descriptor("", Digest.of(b"expected"), len(DATA))
    with pytest.raises(IntegrityError, match="does not match its digest") as raised:
        repository.write_blob(lambda: [DATA], wrong)
    assert raised.value.side == "source"
    assert not repository.has_blob(BLOB.digest)
    assert uploads(registry, repository) == []
    assert repository.write_blob(lambda: [DATA], BLOB) == (BLOB.digest, BLOB.size)


def test_an_interrupt_in_the_chunks_passes_through_and_leaves_no_upload(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")

    def broken() -> Iterable[bytes]:
        yield DATA
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repository.write_blob(broken)
    assert uploads(registry, repository) == []


def test_a_manifest_with_missing_blobs_is_refused(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    put_image(repository, "one")
    lost = Manifest(BLOB, (Descriptor(LAYER_TAR, Digest.of(b"lost"), 4),)).to_raw()
    with pytest.raises(NotFoundError) as raised:
        repository.put_manifest(lost, "two")
    assert "rerun" in (raised.value.hint or "")
    assert repository.tags() == ["one"]


def test_a_damaged_manifest_is_an_error(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    raw = put_image(repository, "x", b"of this test alone").to_raw()
    file = registry.blob_file(raw.digest)
    file.write_bytes(file.read_bytes().replace(b"tar", b"rat"))
    for reference in ("x", raw.digest):
        with pytest.raises(LlmstackError) as raised:
            repository.manifest(reference)
        assert not isinstance(raised.value, UsageError)


def test_a_damaged_blob_is_an_integrity_error(registry: Registry, client: Client):
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
    """A reader whose blobs cannot be mounted."""

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


def test_a_mount_requests_permission_to_pull_from_the_source(token_registry: Registry, client: Client, login):
    login(token_registry)
    registries = Registries(client, lookup)
    space = token_registry.namespace()
    write_bytes(registries.repository(Reference.parse(f"{space}/base"), write=True), DATA)
    source = registries.repository(Reference.parse(f"{space}/base"))
    target = registries.repository(Reference.parse(f"{space}/models"), write=True)
    assert copy_blob(BLOB, source, target) is False
    path = space.partition("/")[2]
    assert [f"repository:{path}/models:pull,push", f"repository:{path}/base:pull"] in token_registry.tokens.scopes


def test_a_refused_mount_becomes_an_upload(registry: Registry, client: Client):
    """The source repository does not have the blob, so the registry opens an upload session instead (202)."""
    registries = Registries(client, lookup)
    space = registry.namespace()
    data = os.urandom(1000)
    blob = Descriptor(LAYER_TAR, Digest.of(data), len(data))
    target = registries.repository(Reference.parse(f"{space}/models"), write=True)
    empty = registries.repository(Reference.parse(f"{space}/empty"))
    assert target.mount_blob(blob, empty) is False
    assert uploads(registry, target) == []

    other = registries.repository(Reference.parse(f"{registry.namespace()}/elsewhere"), write=True)
    write_bytes(other, data)
    assert copy_blob(blob, _NotARepository(other), target) is True
    assert target.has_blob(blob.digest)


NO_DIGESTS, NO_TAGS = ("DELETE .*/manifests/sha256:.*", 405), ("DELETE .*/manifests/old", 405)


@pytest.mark.parametrize(
    ("keep_tags", "refuse", "deleted"),
    [
        (False, [], True),
        (False, [NO_DIGESTS], True),
        (False, [NO_DIGESTS, NO_TAGS], False),
        (True, [], True),
        (True, [NO_TAGS], False),
    ],
)
def test_delete_manifest_tells_whether_the_tag_is_deleted(
    client: Client, keep_tags: bool, refuse: list[tuple[str, int]], deleted: bool
):
    """In go-containerregistry's registry a tag outlives its manifest."""
    with Sink() as sink:
        repository = open_repository(client, f"{sink.host}/models")
        digest = put_image(repository, "old").to_raw().digest
        sink.keep_tags, sink.refuse = keep_tags, refuse
        assert repository.delete_manifest(digest, "old") == deleted
        assert repository.tags() == ([] if deleted else ["old"])


@pytest.mark.parametrize("status", [401, 403, 418, 500])
def test_delete_manifest_returns_false_if_the_registry_refuses(client: Client, status: int):
    """Afterwards the repository can still be written to, also without credentials."""
    with Sink() as sink:
        repository = open_repository(client, f"{sink.host}/models")
        manifest = put_image(repository, "old").to_raw()
        sink.refuse = [("DELETE .*", status)] * 50
        assert repository.delete_manifest(manifest.digest, "old") is False
        repository.put_manifest(manifest, "new")


def test_delete_manifest_ends_when_it_is_cancelled(client: Client):
    with Sink() as sink:
        repository = open_repository(client, f"{sink.host}/models")
        digest = put_image(repository, "old").to_raw().digest
        client.cancel.set()
        with pytest.raises(Cancelled):
            repository.delete_manifest(digest, "old")


def test_delete_manifest_keeps_a_tag_of_another_manifest(client: Client):
    with Sink() as sink:
        repository = open_repository(client, f"{sink.host}/models")
        old, new = (put_image(repository, "x", data).to_raw() for data in (b"old", b"new"))
        sink.keep_tags = True
        assert repository.delete_manifest(old.digest, "x")
        assert repository.manifest("x") == new


def test_tags_on_many_pages(registry: Registry, client: Client):
    repository = open_repository(client, f"{registry.namespace()}/models")
    raw = put_image(repository, "t0").to_raw()
    for number in range(1, 25):
        repository.put_manifest(raw, f"t{number}")
    paging = WebServer(lambda request: _page(request, [f"t{number}" for number in range(25)]))
    paging.start()
    try:
        paged = open_repository(client, paging.url.removeprefix("http://") + "/x/models")
        assert paged.tags() == repository.tags() == sorted(f"t{number}" for number in range(25))
    finally:
        paging.stop()


def _page(request: Request, tags: list[str]) -> Response:
    """Answer as distribution does, with at most ten tags per page, whatever `n` is."""
    if request.path == "/v2/":
        return Response(200)
    start = tags.index(request.query["last"][0]) + 1 if "last" in request.query else 0
    page = tags[start : start + 10]
    more = {"Link": f'<{request.raw_path}?last={page[-1]}&n=10>; rel="next"'} if start + 10 < len(tags) else {}
    return Response(200, more, json.dumps({"name": "x", "tags": page}).encode())


def test_a_loop_of_tag_pages_ends(client: Client):
    body = json.dumps({"tags": ["a"]}).encode()
    circle = WebServer(lambda request: Response(200, {"Link": f'<{request.raw_path}>; rel="next"'}, body))
    circle.start()
    try:
        assert open_repository(client, circle.url.removeprefix("http://") + "/x").tags() == ["a"]
    finally:
        circle.stop()
