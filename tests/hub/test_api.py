"""The hub as ferry asks it: what it says, and how it fails, on a loopback hub that speaks the real one's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError, LlmstackError, NotAuthorisedError, NotFoundError, UnavailableError
from llmstack.hub import api
from llmstack.hub.api import Hub
from llmstack.hub.snapshot import FileHash, HubFile, RepoInfo
from llmstack.net import Client
from llmstack.net.backoff import Cancelled
from tests.support import hub as rig
from tests.support.webserver import Request, Response, WebServer

DATA = random.Random(3).randbytes(200_000)
TOKEN = "hf_s3cr3tT0kenOfTheTest"


@pytest.fixture
def told() -> list[str]:
    """What was told of waits."""
    return []


@pytest.fixture
def client(told: list[str]) -> Iterator[Client]:
    with closing(Client(tell=told.append, retry_wait=0.01)) as client:
        yield client


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do what HF_ENDPOINT would have done when huggingface_hub was imported, which was long ago."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)  # it reads its variables at import
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template
    )  # it reads its variables at import


@pytest.fixture
def ask(hub: rig.Hub, client: Client, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a client of the loopback hub, with a token or without."""

    def make(token: str | None = None) -> Hub:
        point_at(monkeypatch, hub.url)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        return Hub(client)

    return make


def read(hub: Hub, info: RepoInfo, path: str) -> bytes:
    file = next(file for file in hub.snapshot(info).files if file.path == path)
    seen: dict[str, str] = {}
    data = b"".join(hub.read(info, file, lambda file, sha256: seen.update({file.path: sha256})))
    assert seen == {path: hashlib.sha256(data).hexdigest()}
    return data


def test_what_a_repo_is(hub: rig.Hub, ask):
    files = {"config.json": b"{}", "weights.bin": DATA, "a/b.txt": b"b", "empty": b""}
    repo = hub.add_repo("org/tiny", files, license="mit", gated="auto")
    first = repo.sha
    repo.commit({"config.json": b"[]"})
    repo.tag("v1", first)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert info == RepoInfo("org/tiny", "model", "main", repo.sha, "2024-01-02T12:00:00Z", "mit", True)
    snapshot = source.snapshot(info)
    assert snapshot.created == "2024-01-02T12:00:00Z"
    assert [(file.path, file.size, len(file.oid)) for file in snapshot.files] == [
        ("a/b.txt", 1, 40),
        ("config.json", 2, 40),
        ("empty", 0, 40),
        ("weights.bin", 200_000, 64),
    ]
    assert snapshot.size == 200_003
    for revision in ("v1", first):
        older = source.info("org/tiny", "model", revision)
        assert older.commit == first
        assert source.snapshot(older).created == "2024-01-01T12:00:00Z"


def test_every_byte_of_models_and_datasets(hub: rig.Hub, ask):
    names = {"empty": b"", "weights #1?.bin": DATA, "ü/模型%20.json": b"{}", "a+b/c&d=e.txt": b"x"}
    for kind in ("model", "dataset"):
        hub.add_repo("org/tiny", names, repo_type=kind)
        source = ask()
        info = source.info("org/tiny", kind, "main")
        assert {path: read(source, info, path) for path in names} == names


def test_an_empty_file_is_not_asked_for(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"empty": b""})
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "empty") == b""
    assert not hub.log.files()


def test_resolving_is_one_request_and_listing_two_more(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert len(hub.log) == 1
    source.snapshot(info)
    assert len(hub.log) == 3


def test_thousands_of_files_come_in_pages(hub: rig.Hub, ask):
    hub.add_repo("org/many", {f"f{number:04}": b"%d" % number for number in range(2500)})
    source = ask()
    snapshot = source.snapshot(source.info("org/many", "model", "main"))
    assert [file.path for file in snapshot.files] == [f"f{number:04}" for number in range(2500)]
    assert len(hub.log.all("*/tree/*")) == 3


# Who may not


def test_unknown_repos_and_revisions(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    for token in (None, hub.add_token(TOKEN)):
        source = ask(token)
        with pytest.raises(NotFoundError, match="model org/none is not on") as raised:
            source.info("org/none", "model", "main")
        assert "--type dataset" in (raised.value.hint or "")
        assert raised.value.side == "source"
        with pytest.raises(NotFoundError, match="org/tiny has no revision v9") as raised:
            source.info("org/tiny", "model", "v9")
        assert f"{hub.url}/org/tiny/tree/main" in (raised.value.hint or "")


def test_a_gated_repo_says_where_to_accept_and_how_to_give_a_token(hub: rig.Hub, ask):
    hub.add_repo("org/gated", {"config.json": b"{}"}, gated="manual")
    source = ask()
    info = source.info("org/gated", "model", "main")
    with pytest.raises(NotAuthorisedError, match="org/gated is gated") as raised:
        read(source, info, "config.json")
    assert f"{hub.url}/org/gated" in (raised.value.hint or "")
    assert "HF_TOKEN" in (raised.value.hint or "")
    assert raised.value.exit_code == 4


def test_a_token_without_access_says_so(hub: rig.Hub, ask):
    hub.add_repo("org/gated", {"weights.bin": DATA}, gated="manual", repo_type="dataset")
    source = ask(hub.add_token(TOKEN))
    info = source.info("org/gated", "dataset", "main")
    with pytest.raises(NotAuthorisedError) as raised:
        read(source, info, "weights.bin")
    assert "with the account of your token" in (raised.value.hint or "")
    assert f"{hub.url}/datasets/org/gated" in (raised.value.hint or "")
    hub.add_token(TOKEN, access={"org/gated"})
    assert read(source, info, "weights.bin") == DATA


def test_a_private_repo(hub: rig.Hub, ask):
    hub.add_repo("org/private", {"config.json": b"{}"}, private=True)
    with pytest.raises(NotFoundError) as raised:
        ask().info("org/private", "model", "main")
    assert "if it is private, set HF_TOKEN" in (raised.value.hint or "")
    with pytest.raises(NotFoundError) as raised:
        ask(hub.add_token(TOKEN)).info("org/private", "model", "main")
    assert "your token may not see it" in (raised.value.hint or "")
    source = ask(hub.add_token(TOKEN, access={"org/private"}))
    assert read(source, source.info("org/private", "model", "main"), "config.json") == b"{}"


def test_a_bad_token_is_told_apart_from_an_unknown_repo(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    with pytest.raises(NotAuthorisedError, match="does not accept the token") as raised:
        ask(TOKEN).info("org/tiny", "model", "main")
    assert TOKEN not in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == 4


def test_a_token_stays_with_the_hub(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    source = ask(hub.add_token(TOKEN))
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    assert [entry.token for entry in hub.log.all(host="cdn")] == [None]
    assert {entry.token for entry in hub.log.all(host="hub")} == {f"Bearer {TOKEN}"}


# What goes wrong for a while


def test_a_busy_hub_is_waited_for_as_long_as_it_asks_and_the_person_is_told(hub: rig.Hub, ask, told: list[str]):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    hub.fault("/api/models/org/tiny/revision/*", status=429, retry_after=3)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert len(told) == 1
    assert "it answers 429; trying again in 3 s" in told[0]
    hub.fault("*/config.json", status=429, headers={"RateLimit": '"resolvers";r=0;t=3'})
    assert read(source, info, "config.json") == b"{}"
    assert "429 Too Many Requests; trying again in 3 s" in told[1]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("pattern", ["*/revision/*", "*/tree/*", "*/commits/*", "*/weights.bin"])
def test_a_hub_that_fails_for_a_moment(hub: rig.Hub, ask, status: int, pattern: str):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault(pattern, status=status, times=2)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert read(source, info, "weights.bin") == DATA
    assert source.snapshot(info).created == "2024-01-01T12:00:00Z"


@pytest.mark.parametrize("pattern", ["*/revision/*", "*/tree/*", "*/commits/*", "*/weights.bin"])
def test_a_hub_that_fails_on_is_given_up_on(hub: rig.Hub, ask, pattern: str):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault(pattern, status=503, times=None)
    source = ask()
    with pytest.raises(UnavailableError, match="503") as raised:
        read(source, source.info("org/tiny", "model", "main"), "weights.bin")
    assert raised.value.side == "source"
    assert len(hub.log.all(pattern)) <= 6


def test_a_mirror_that_knows_no_commits_is_believed_about_the_repo(hub: rig.Hub, ask):
    repo = hub.add_repo("org/tiny", {"config.json": b"{}"})
    repo.commit({"x": b"x"}, branch="other")
    hub.fault("*/commits/*", status=404)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert source.snapshot(info).created == info.last_modified


def test_a_hub_that_is_not_there(client: Client, monkeypatch: pytest.MonkeyPatch):
    point_at(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="refused") as raised:
        Hub(client).info("org/tiny", "model", "main")
    assert raised.value.exit_code == 6
    assert raised.value.side == "source"


def test_offline_mode_is_named(hub: rig.Hub, ask, monkeypatch: pytest.MonkeyPatch):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it reads its variables at import
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        ask().info("org/tiny", "model", "main")


# Bytes on their way


@pytest.mark.parametrize("cdn", [True, False])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=4))
def test_dropped_connections_anywhere(hub: rig.Hub, ask, cdn: bool, cuts: list[int]):
    hub.cdn = cdn
    hub.faults.clear()
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    for cut in cuts:
        hub.fault("*/weights.bin", drop_after=cut)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_dropped_connections_without_end(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", drop_after=0, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(UnavailableError, match="broke off") as raised:
        read(source, info, "weights.bin")
    assert (raised.value.side, raised.value.exit_code) == ("source", 6)
    assert "Signature" not in str(raised.value)


@pytest.mark.parametrize("path", ["weights.bin", "config.json"])
@pytest.mark.parametrize("at", [0, 1])
def test_wrong_bytes(hub: rig.Hub, ask, path: str, at: int):
    hub.add_repo("org/tiny", {"weights.bin": DATA, "config.json": b"{}"})
    hub.fault(f"*/{path}", corrupt_at=at)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(IntegrityError, match=path) as raised:
        read(source, info, path)
    assert (raised.value.side, raised.value.exit_code) == ("source", 5)


@pytest.mark.parametrize("size", [0, 1, 199_999])
def test_a_truncated_file(hub: rig.Hub, ask, size: int):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", truncate_to=size)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(IntegrityError, match=f"is {size} bytes long, not 200000") as raised:
        read(source, info, "weights.bin")
    assert raised.value.side == "source"


def test_a_server_that_ignores_range(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", drop_after=1000)
    hub.fault("*/weights.bin", ignore_range=True)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_a_signed_url_that_expires_midway_is_asked_for_again(hub: rig.Hub, ask):
    """Every URL given out so far is worthless after the first response, which breaks off."""
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", drop_after=1000, expire=True)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    ranges = [entry.headers.get("range") for entry in hub.log.files("*/weights.bin")]
    assert ranges == [None, None, "bytes=1000-199999", "bytes=1000-199999"]


def test_a_storage_that_refuses_a_fresh_url_for_a_moment(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", status=403, times=2)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_a_storage_that_refuses_on(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", status=403, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(UnavailableError, match="the storage behind the hub answers 403"):
        read(source, info, "weights.bin")


def test_a_hub_that_refuses_without_a_reason_is_not_taken_for_its_storage(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="hub", status=403, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(NotAuthorisedError):
        read(source, info, "weights.bin")
    assert len(hub.log.files()) == 1


def test_a_commit_that_is_gone(hub: rig.Hub, ask):
    repo = hub.add_repo("org/tiny", {"config.json": b"{}"})
    source = ask()
    info = source.info("org/tiny", "model", "main")
    file = source.snapshot(info).files[0]
    del repo.commits[repo.sha]
    with pytest.raises(NotFoundError, match=r"config\.json is not there") as raised:
        list(source.read(info, file, lambda *_: None))
    assert "run the command again" in (raised.value.hint or "")


def test_a_large_file_comes_in_several_ranges(hub: rig.Hub, ask, monkeypatch: pytest.MonkeyPatch):
    """The real storage refuses a single GET of more than 50 GB; the window is made small for the test."""
    monkeypatch.setattr(api, "RANGE_WINDOW", 70_000)  # nobody has 32 GB to spare
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    ranges = [entry.headers["range"] for entry in hub.log.files(method="GET") if entry.host == "cdn"]
    assert ranges == ["bytes=0-69999", "bytes=70000-139999", "bytes=140000-199999"]


def test_a_cancel_ends_a_slow_file(hub: rig.Hub, ask, client: Client):
    hub.add_repo("org/tiny", {"weights.bin": os.urandom(3_000_000)})
    hub.fault("*/weights.bin", bytes_per_second=2_000_000, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    chunks = source.read(info, source.snapshot(info).files[0], lambda *_: None)
    next(chunks)
    client.cancel.set()
    with pytest.raises(Cancelled):
        list(chunks)


# A hub that is none


@pytest.mark.parametrize("sha", [None, "", "main", "../../x", "A" * 40, "a" * 39, 7])
def test_a_hub_that_names_no_commit(client: Client, monkeypatch: pytest.MonkeyPatch, sha: object):
    """What is not a commit must not get into an image: nobody could read its file index."""

    def answer(_: Request) -> Response:
        return Response(200, {"Content-Type": "application/json"}, json.dumps({"id": "org/tiny", "sha": sha}).encode())

    server = WebServer(answer)
    server.start()
    point_at(monkeypatch, server.url)
    try:
        with pytest.raises(LlmstackError) as raised:
            Hub(client).info("org/tiny", "model", "main")
    finally:
        server.stop()
    assert raised.value.exit_code == 6


@pytest.mark.parametrize(
    "page",
    [
        b"[7]",
        b"<html>",
        b'[{"type": "file"}]',
        b'[{"type": "file", "path": 7, "size": 1, "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": -1, "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": "1", "oid": "%s"}]' % (b"a" * 40),
        b'[{"type": "file", "path": "x", "size": 1, "oid": "zz"}]',
        b'[{"type": "file", "path": "x", "size": 1, "oid": 7}]',
        b'[{"type": "file", "path": "x", "size": 1, "oid": "%s", "lfs": {"size": 1}}]' % (b"a" * 40),
    ],
)
def test_a_hub_whose_file_list_is_none(client: Client, monkeypatch: pytest.MonkeyPatch, page: bytes):
    server = WebServer(lambda request: Response(200, {}, page if "/tree/" in request.path else b"{}"))
    server.start()
    point_at(monkeypatch, server.url)
    info = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)
    try:
        with pytest.raises(UnavailableError, match="no file list") as raised:
            Hub(client).snapshot(info)
    finally:
        server.stop()
    assert raised.value.side == "source"


def test_the_next_page_of_another_host_gets_no_token(client: Client, monkeypatch: pytest.MonkeyPatch):
    seen: list[Request] = []

    def other(request: Request) -> Response:
        seen.append(request)
        return Response(200, {}, b"[]")

    elsewhere = WebServer(other, host="127.0.0.2")
    elsewhere.start()
    link = {"Link": f'<{elsewhere.url}/page2>; rel="next"'}
    server = WebServer(lambda request: Response(200, link if "/tree/" in request.path else {}, b"[]"))
    server.start()
    point_at(monkeypatch, server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    info = RepoInfo("org/tiny", "model", "main", "c" * 40, "2024-01-01T00:00:00Z", None, False)
    try:
        assert Hub(client).snapshot(info).files == ()
    finally:
        server.stop()
        elsewhere.stop()
    assert len(seen) == 1
    assert TOKEN not in str(seen)


@given(st.binary(max_size=200), st.booleans())
def test_hashes_are_the_hubs(data: bytes, lfs: bool):
    oid = hashlib.sha256(data).hexdigest() if lfs else rig.git_oid(data)
    seen = FileHash(HubFile("x", len(data), oid))
    seen.update(data[:50])
    seen.update(data[50:])
    assert seen.check() == hashlib.sha256(data).hexdigest()
    seen.update(b"more")
    with pytest.raises(IntegrityError):
        seen.check()
