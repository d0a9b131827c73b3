"""The loopback hub, judged by the real huggingface_hub."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import urllib3
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
    assert bool(hub.log.files("*.safetensors", method="GET")) is True
    assert {entry.host for entry in hub.log.files("*.safetensors") if entry.status == 200} == {"cdn" if cdn else "hub"}
