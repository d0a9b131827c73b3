"""The loopback hub, checked with the real huggingface_hub."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.hub import Hub, Repo, git_oid

BIG = os.urandom(300_000)
TOKEN = "hf_" + "a" * 34
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "sub dir/model+1.safetensors": BIG,
    "sub dir/deeper/ä.txt": "grüß".encode(),
}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("org/tiny", FILES, license="mit")


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resolve_cache", [False, True])
@pytest.mark.parametrize("cdn", [False, True])
def test_snapshot_download_gives_every_byte_back(hub: Hub, repo: Repo, tmp_path: Path, cdn: bool, resolve_cache: bool):
    hub.cdn, hub.resolve_cache = cdn, resolve_cache
    folder = Path(snapshot_download("org/tiny", endpoint=hub.url, cache_dir=tmp_path, token=False))
    assert folder.name == repo.sha
    assert contents(folder) == FILES
    blob = (folder / "sub dir/model+1.safetensors").resolve().name
    assert blob == hashlib.sha256(BIG).hexdigest()
    assert (folder / "config.json").resolve().name == git_oid(FILES["config.json"])
    assert {entry.host for entry in hub.log.files("*.safetensors") if entry.status == 200} == {"cdn" if cdn else "hub"}
    assert bool(hub.log.files("/api/resolve-cache/*")) is resolve_cache


def test_datasets_and_ids_of_one_segment(hub: Hub, tmp_path: Path):
    hub.add_repo("org/data", {"train.csv": b"1,2\n"}, repo_type="dataset")
    hub.add_repo("gpt2", {"config.json": b"{}"})
    data = snapshot_download("org/data", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path, token=False)
    model = snapshot_download("gpt2", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert contents(Path(data)) == {"train.csv": b"1,2\n"}
    assert contents(Path(model)) == {"config.json": b"{}"}


def test_repo_info(repo: Repo, api: HfApi):
    repo.gated = "manual"
    repo.commit({"new.txt": b"x"})
    info = api.model_info("org/tiny", files_metadata=True)
    assert (info.id, info.sha, info.gated, info.private) == ("org/tiny", repo.sha, "manual", False)
    assert (info.card_data or {}).get("license") == "mit"
    assert info.tags == ["license:mit"]
    assert info.created_at == datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert info.last_modified == datetime(2024, 1, 2, 12, tzinfo=UTC)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert set(siblings) == {*FILES, "new.txt"}
    lfs = siblings["sub dir/model+1.safetensors"].lfs
    assert lfs is not None
    assert (lfs.sha256, lfs.size) == (hashlib.sha256(BIG).hexdigest(), len(BIG))
    assert siblings["config.json"].blob_id == git_oid(FILES["config.json"])
    expanded = api.model_info("org/tiny", expand=["gated"])
    assert (expanded.gated, expanded.siblings) == ("manual", None)


def test_tree(repo: Repo, api: HfApi):
    entries = {entry.path: entry for entry in api.list_repo_tree("org/tiny", recursive=True)}
    assert set(entries) == {*FILES, "sub dir", "sub dir/deeper"}
    assert entries["sub dir/model+1.safetensors"].lfs.sha256 == hashlib.sha256(BIG).hexdigest()
    assert entries["config.json"].blob_id == git_oid(FILES["config.json"])
    top = [entry.path for entry in api.list_repo_tree("org/tiny")]
    assert top == [".gitattributes", "config.json", "empty.txt", "sub dir"]
    below = [entry.path for entry in api.list_repo_tree("org/tiny", "sub dir", expand=True)]
    assert below == ["sub dir/deeper", "sub dir/model+1.safetensors"]
    infos = api.get_paths_info("org/tiny", ["config.json", "sub dir", "absent"], revision=repo.sha)
    assert [info.path for info in infos] == ["config.json", "sub dir"]


def test_a_large_tree_has_several_pages(hub: Hub, api: HfApi):
    paths = {f"{number % 3}/{number:04}.txt" for number in range(2500)}
    hub.add_repo("org/many", dict.fromkeys(paths, b""))
    assert {entry.path for entry in api.list_repo_tree("org/many", recursive=True)} == {*paths, "0", "1", "2"}
    assert len(hub.log.all("/api/models/org/many/tree/main")) == 3


def test_git_gives_files_the_same_ids(repo: Repo, tmp_path: Path):
    """The blob ids of the hub equal those of git, also for LFS pointers."""
    lfs = repo.head().files["sub dir/model+1.safetensors"]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{lfs.sha256}\nsize {lfs.size}\n"
    (tmp_path / "pointer").write_text(pointer)
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    names = subprocess.run(
        ["git", "hash-object", "pointer", "config.json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert names.stdout.split() == [lfs.oid, repo.head().files["config.json"].oid]


def test_branches_tags_and_commits(repo: Repo, api: HfApi, tmp_path: Path):
    first = repo.sha
    repo.tag("v1.0")
    second = repo.commit({"config.json": b"{}"}, delete=["empty.txt"], title="second").sha
    pull = repo.commit({"pr.txt": b"pr"}, branch="refs/pr/1").sha
    refs = api.list_repo_refs("org/tiny", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": first}
    assert {ref.ref: ref.target_commit for ref in refs.pull_requests or []} == {"refs/pr/1": pull}
    assert [commit.commit_id for commit in api.list_repo_commits("org/tiny", revision="refs/pr/1")] == [
        pull,
        second,
        first,
    ]
    for revision, sha in {"v1.0": first, "main": second, "refs/pr/1": pull, first: first}.items():
        assert api.model_info("org/tiny", revision=revision).sha == sha
    assert "empty.txt" not in repo.head().files
    folder = snapshot_download("org/tiny", revision="refs/pr/1", endpoint=api.endpoint, cache_dir=tmp_path, token=False)
    assert (Path(folder) / "pr.txt").read_bytes() == b"pr"


def test_the_same_calls_make_the_same_commits():
    def build() -> list[str]:
        repo = Hub().add_repo("org/tiny", FILES)
        repo.commit({"a": b"a"})
        repo.commit({}, delete=["a"])
        return list(repo.commits)

    with_hub_one, with_hub_two = build(), build()
    assert with_hub_one == with_hub_two
    assert len(set(with_hub_one)) == 3


@pytest.mark.parametrize("token", [False, TOKEN])
@pytest.mark.parametrize(
    ("fetch", "error"),
    [
        (lambda api: api.model_info("org/absent"), RepositoryNotFoundError),
        (lambda api: api.dataset_info("org/tiny"), RepositoryNotFoundError),
        (lambda api: api.model_info("org/private"), RepositoryNotFoundError),
        (lambda api: api.model_info("org/tiny", revision="absent"), RevisionNotFoundError),
        (lambda api: list(api.list_repo_tree("org/tiny", revision="absent")), RevisionNotFoundError),
        (lambda api: list(api.list_repo_tree("org/tiny", "absent")), RemoteEntryNotFoundError),
        (lambda api: api.hf_hub_download("org/tiny", "absent"), RemoteEntryNotFoundError),
        (lambda api: api.hf_hub_download("org/gated", "config.json"), GatedRepoError),
        (lambda api: api.auth_check("org/gated"), GatedRepoError),
    ],
)
@pytest.mark.usefixtures("repo")
def test_refusals(hub: Hub, token: str | bool, fetch: Callable[[HfApi], object], error: type[Exception]):
    hub.add_token(TOKEN, access={"org/elsewhere"})
    hub.add_repo("org/gated", FILES, gated="auto")
    hub.add_repo("org/private", FILES, private=True)
    with pytest.raises(error) as caught:
        fetch(HfApi(endpoint=hub.url, token=token))
    if error is GatedRepoError:
        assert caught.value.response.status_code == (403 if token else 401)


def test_a_token_gives_access_to_its_repos(hub: Hub, tmp_path: Path):
    hub.add_token(TOKEN, "alice", access={"org/gated", "org/private"})
    hub.add_repo("org/gated", FILES, gated="manual")
    hub.add_repo("org/private", FILES, private=True)
    for repo_id in ("org/gated", "org/private"):
        folder = snapshot_download(repo_id, endpoint=hub.url, cache_dir=tmp_path, token=TOKEN)
        assert contents(Path(folder)) == FILES
    assert HfApi(endpoint=hub.url, token=TOKEN).whoami()["name"] == "alice"


@pytest.mark.usefixtures("repo")
def test_an_invalid_token_is_refused_even_where_none_is_needed(hub: Hub):
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(endpoint=hub.url, token="hf_" + "b" * 34).model_info("org/tiny")


@pytest.mark.usefixtures("repo")
def test_the_log_records_which_host_received_the_token(hub: Hub, tmp_path: Path):
    hub.add_token(TOKEN)
    path = hf_hub_download("org/tiny", "sub dir/model+1.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=TOKEN)
    assert Path(path).read_bytes() == BIG
    on_hub, on_cdn = hub.log.all(host="hub"), hub.log.all(host="cdn")
    assert {entry.token for entry in on_hub} == {f"Bearer {TOKEN}"}
    assert [entry.token for entry in on_cdn] == [None]
    assert [(entry.status, entry.length) for entry in on_cdn] == [(200, len(BIG))]


def test_a_dropped_connection_is_resumed(hub: Hub, tmp_path: Path):
    # huggingface_hub writes in pieces of 10 MiB and resumes after the last complete one.
    piece = 10 * 1024 * 1024
    weights = os.urandom(25 * 1024 * 1024)
    hub.add_repo("org/large", {"model.safetensors": weights})
    hub.fault("*/model.safetensors", drop_after=12 * 1024 * 1024, times=2)
    path = hf_hub_download("org/large", "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == weights
    served = [(entry.status, entry.headers.get("range")) for entry in hub.log.all(host="cdn")]
    assert served == [(200, None), (206, f"bytes={piece}-"), (206, f"bytes={2 * piece}-")]


def test_a_renamed_repo_is_found_under_its_old_id(hub: Hub, repo: Repo, tmp_path: Path):
    hub.rename(repo, "neworg/tiny")
    assert HfApi(endpoint=hub.url, token=False).model_info("org/tiny").id == "neworg/tiny"
    folder = snapshot_download("org/tiny", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert contents(Path(folder)) == FILES


def test_as_a_process(tmp_path: Path):
    (tmp_path / "model/sub").mkdir(parents=True)
    (tmp_path / "model/sub/weights.bin").write_bytes(BIG)
    (tmp_path / "model/config.json").write_bytes(b"{}")
    command = [sys.executable, "-m", "tests.support.hub", "--model", f"org/tiny={tmp_path}/model", "--license", "mit"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        folder = snapshot_download("org/tiny", endpoint=url, cache_dir=tmp_path / "cache", token=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert contents(Path(folder)) == {"config.json": b"{}", "sub/weights.bin": BIG}
