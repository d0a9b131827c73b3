"""HubClient against a loopback hub with the protocol of the real one: results and errors."""

from __future__ import annotations

import pytest

from llmstack.errors import NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import RepoInfo
from llmstack.net import Client
from tests.hf.support import DATA, TOKEN, point_at, read
from tests.support import hub as rig


def test_repo_info(hub: rig.Hub, ask):
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


def test_an_empty_file_needs_no_request(hub: rig.Hub, ask):
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


def test_a_file_list_of_several_pages(hub: rig.Hub, ask):
    hub.add_repo("org/many", {f"f{number:04}": b"%d" % number for number in range(2500)})
    source = ask()
    snapshot = source.snapshot(source.info("org/many", "model", "main"))
    assert [file.path for file in snapshot.files] == [f"f{number:04}" for number in range(2500)]
    assert len(hub.log.all("*/tree/*")) == 3


# Authorization


def test_unknown_repos_and_revisions(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    for token in (None, hub.add_token(TOKEN)):
        source = ask(token)
        with pytest.raises(NotFoundError, match="model org/none: not found on") as raised:
            source.info("org/none", "model", "main")
        assert "--type dataset" in (raised.value.hint or "")
        assert raised.value.side == "source"
        with pytest.raises(NotFoundError, match="org/tiny has no revision v9") as raised:
            source.info("org/tiny", "model", "v9")
        assert f"{hub.url}/org/tiny/tree/main" in (raised.value.hint or "")


def test_the_error_of_a_gated_repo_names_its_page_and_the_token(hub: rig.Hub, ask):
    hub.add_repo("org/gated", {"config.json": b"{}"}, gated="manual")
    source = ask()
    info = source.info("org/gated", "model", "main")
    with pytest.raises(NotAuthorizedError, match="org/gated is gated") as raised:
        read(source, info, "config.json")
    assert f"{hub.url}/org/gated" in (raised.value.hint or "")
    assert "HF_TOKEN" in (raised.value.hint or "")
    assert raised.value.exit_code == 4


def test_a_token_without_access(hub: rig.Hub, ask):
    hub.add_repo("org/gated", {"weights.bin": DATA}, gated="manual", repo_type="dataset")
    source = ask(hub.add_token(TOKEN))
    info = source.info("org/gated", "dataset", "main")
    with pytest.raises(NotAuthorizedError) as raised:
        read(source, info, "weights.bin")
    assert "with the account of your token" in (raised.value.hint or "")
    assert f"{hub.url}/datasets/org/gated" in (raised.value.hint or "")
    hub.add_token(TOKEN, access={"org/gated"})
    assert read(source, info, "weights.bin") == DATA


def test_a_private_repo(hub: rig.Hub, ask):
    hub.add_repo("org/private", {"config.json": b"{}"}, private=True)
    with pytest.raises(NotFoundError) as raised:
        ask().info("org/private", "model", "main")
    assert "set HF_TOKEN if the repo is private" in (raised.value.hint or "")
    with pytest.raises(NotFoundError) as raised:
        ask(hub.add_token(TOKEN)).info("org/private", "model", "main")
    assert "check that your token has access" in (raised.value.hint or "")
    source = ask(hub.add_token(TOKEN, access={"org/private"}))
    assert read(source, source.info("org/private", "model", "main"), "config.json") == b"{}"


@pytest.mark.parametrize("status", [403, 451])
def test_a_disabled_repo(hub: rig.Hub, ask, status: int):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    source = ask()
    info = source.info("org/tiny", "model", "main")
    reason = {"X-Error-Message": "Access to this resource is disabled."}
    hub.fault("*/org/tiny/*", times=None, status=status, headers=reason)
    for look in (lambda: source.info("org/tiny", "model", "main"), lambda: source.snapshot(info)):
        with pytest.raises(NotAuthorizedError, match="org/tiny is disabled on the Hub") as raised:
            look()
        assert f"{hub.url}/org/tiny" in (raised.value.hint or "")


def test_an_invalid_token_is_not_reported_as_an_unknown_repo(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    with pytest.raises(NotAuthorizedError, match="the token is invalid") as raised:
        ask(TOKEN).info("org/tiny", "model", "main")
    assert TOKEN not in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == 4


def test_the_token_is_not_sent_to_the_storage(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    source = ask(hub.add_token(TOKEN))
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    assert [entry.token for entry in hub.log.all(host="cdn")] == [None]
    assert {entry.token for entry in hub.log.all(host="hub")} == {f"Bearer {TOKEN}"}


# Temporary failures


def test_rate_limits_are_respected_and_noted(hub: rig.Hub, ask, notes: list[str]):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    hub.fault("/api/models/org/tiny/revision/*", status=429, retry_after=3)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert len(notes) == 1
    assert "responded with 429; retrying in 3 s" in notes[0]
    hub.fault("*/config.json", status=429, headers={"RateLimit": '"resolvers";r=0;t=3'})
    assert read(source, info, "config.json") == b"{}"
    assert "429 Too Many Requests; retrying in 3 s" in notes[1]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("pattern", ["*/revision/*", "*/tree/*", "*/commits/*", "*/weights.bin"])
def test_a_temporary_failure_is_retried(hub: rig.Hub, ask, status: int, pattern: str):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault(pattern, status=status, times=2)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert read(source, info, "weights.bin") == DATA
    assert source.snapshot(info).created == "2024-01-01T12:00:00Z"


@pytest.mark.parametrize("pattern", ["*/revision/*", "*/tree/*", "*/commits/*", "*/weights.bin"])
def test_a_permanent_failure_is_an_error(hub: rig.Hub, ask, pattern: str):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault(pattern, status=503, times=None)
    source = ask()
    with pytest.raises(UnavailableError, match="503") as raised:
        read(source, source.info("org/tiny", "model", "main"), "weights.bin")
    assert raised.value.side == "source"
    assert len(hub.log.all(pattern)) <= 6


def test_a_mirror_without_commit_dates(hub: rig.Hub, ask):
    repo = hub.add_repo("org/tiny", {"config.json": b"{}"})
    repo.commit({"x": b"x"}, branch="other")
    hub.fault("*/commits/*", status=404)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    assert source.snapshot(info).created == info.last_modified


def test_connection_refused(client: Client, monkeypatch: pytest.MonkeyPatch):
    point_at(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="refused") as raised:
        HubClient(client).info("org/tiny", "model", "main")
    assert raised.value.exit_code == 6
    assert raised.value.side == "source"


def test_offline_mode(hub: rig.Hub, ask, monkeypatch: pytest.MonkeyPatch):
    hub.add_repo("org/tiny", {"config.json": b"{}"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it reads its variables at import
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        ask().info("org/tiny", "model", "main")
