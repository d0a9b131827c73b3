"""The real Hub clients, each as a process with an empty cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.hub_server.conftest import FILES, OLD, WEIGHTS
from tests.support.carried import COMMIT
from tests.support.serving import Serving, run_client

pytestmark = pytest.mark.xdist_group("serving")

# Everything in one process: starting a client is the slowest step.
EVERYTHING = """
import inspect, json, sys
from pathlib import Path
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

def refused(error_type, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except error_type as error:
        return type(error).__name__
    raise SystemExit(f"{function} was not refused")

api = HfApi()
folder = Path(snapshot_download("org/model"))
fs = HfFileSystem()
with fs.open("org/model/model.safetensors", "rb", block_size=65536) as file:
    file.seek(1_000_000)
    part = file.read(1000).hex()
info = api.model_info("org/model", files_metadata=True)
has_expand = "expand" in inspect.signature(api.model_info).parameters
print(json.dumps({
    "snapshot": folder.name,
    "files": {p.relative_to(folder).as_posix(): p.read_bytes().hex() for p in folder.rglob("*") if p.is_file()},
    "one": Path(hf_hub_download("gpt2", "config.json")).read_text(),
    "old": Path(hf_hub_download("org/model", "config.json", revision="v1.0")).parent.name,
    "dataset": sorted(p.name for p in Path(snapshot_download("org/set", repo_type="dataset")).rglob("*.csv")),
    "part": part,
    "glob": fs.glob("org/model/**/*.json"),
    "models": [m.id for m in api.list_models(search="model", author="org")],
    "all": sorted(m.id for m in api.list_models()),
    "datasets": [d.id for d in api.list_datasets(limit=5)],
    "sizes": {s.rfilename: s.size for s in info.siblings},
    "task": info.pipeline_tag, "license": info.card_data.license, "date": info.last_modified.isoformat(),
    "tree": [entry.path for entry in api.list_repo_tree("org/model", "sub dir")],
    "paths": [entry.path for entry in api.get_paths_info("org/model", ["sub dir", "config.json", "nothing"])],
    "tags": [tag.name for tag in api.list_repo_refs("org/model").tags],
    "pulls": [(pull.name, pull.ref) for pull in api.list_repo_refs("gpt2", include_pull_requests=True).pull_requests],
    "exists": [api.file_exists("org/model", "config.json"), api.file_exists("org/model", "other.json"),
               api.repo_exists("org/other"), api.revision_exists("org/model", "v2")],
    "refused": [
        refused(RepositoryNotFoundError, hf_hub_download, "org/other", "config.json"),
        refused(RevisionNotFoundError, hf_hub_download, "org/model", "config.json", revision="v2"),
        refused(EntryNotFoundError, hf_hub_download, "org/model", "other.json"),
    ],
    "expanded": (api.model_info("org/model", expand=["sha"]) if has_expand else info).sha,
    "commits": [c.commit_id for c in api.list_repo_commits("org/model")],
}))
try:
    api.create_repo("org/new", token="hf_something")
except Exception as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("version", "place"),
    [("0.23", "layout"), ("0.36", "registry"), ("1", "registry"), ("2", "registry"), ("2", "layout")],
)
def test_everything_a_client_does(
    version: str, place: str, clients: Mapping[str, Path], request: pytest.FixtureRequest, tmp_path: Path
):
    hub: Serving = request.getfixturevalue(f"served_{place}")
    found, written = map(json.loads, run_client(clients[version], hub.url, tmp_path, "-c", EVERYTHING).splitlines())
    assert found.pop("files") == {path: data.hex() for path, data in FILES.items()}
    refused = found.pop("refused")
    assert refused[:2] == ["RepositoryNotFoundError", "RevisionNotFoundError"]
    assert refused[2] in {"EntryNotFoundError", "RemoteEntryNotFoundError"}
    assert found == {
        "snapshot": COMMIT,
        "one": '{"n": 2}',
        "old": OLD,
        "dataset": ["train.csv"],
        "part": WEIGHTS[1_000_000:1_001_000].hex(),
        "glob": ["org/model/config.json", "org/model/sub dir/a+b%2Fé.json"],
        "models": ["org/model"],
        "all": ["gpt2", "org/model", "org/parts"],
        "datasets": ["org/set"],
        "sizes": {path: len(data) for path, data in FILES.items()},
        "task": "feature-extraction",
        "license": "mit",
        "date": "2024-05-06T07:08:09+00:00",
        "tree": ["sub dir/a+b%2Fé.json", "sub dir/deep"],
        "paths": ["sub dir", "config.json"],
        "tags": ["v1.0"],
        "pulls": [["1", "refs/pr/1"]],
        "exists": [True, False, False, False],
        "expanded": COMMIT,
        "commits": [COMMIT],
    }
    assert "405" in written
    assert "read-only" in written


def test_hf_download(clients: Mapping[str, Path], served_registry: Serving, tmp_path: Path):
    packages = clients["2"]
    run_client(
        packages,
        served_registry.url,
        tmp_path / "home",
        str(packages / "bin/hf"),
        "download",
        "org/model",
        "--include",
        "*.safetensors",
        "--local-dir",
        str(tmp_path / "here"),
    )
    assert (tmp_path / "here/model.safetensors").read_bytes() == WEIGHTS
    assert not (tmp_path / "here/config.json").exists()
