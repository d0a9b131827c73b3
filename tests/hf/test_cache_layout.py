"""huggingface_hub reads offline the cache that extract writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.carried_image.selection import Selection
from llmstack.errors import UsageError
from llmstack.hf.cache_layout import default_cache
from llmstack.oci.layout import Layout
from tests.extraction.support import FILES, run
from tests.support.carried import COMMIT, carry

# Run in its own process: huggingface_hub reads HF_HUB_OFFLINE and HF_HUB_CACHE once, at import.
JUDGE = """
import json, sys
from pathlib import Path
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
revision = sys.argv[1] or None
try:
    folder = snapshot_download("org/model", revision=revision)
except LocalEntryNotFoundError as error:
    print(json.dumps({"error": type(error).__name__}))
    sys.exit()
found = scan_cache_dir()
print(json.dumps({
    "folder": folder,
    "files": {str(p.relative_to(folder)): p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()},
    "config": Path(hf_hub_download("org/model", "config.json", revision=revision)).read_text(),
    "repos": [[repo.repo_id, repo.repo_type, repo.nb_files, sorted(repo.refs)] for repo in found.repos],
    "warnings": [str(warning) for warning in found.warnings],
}))
"""


@pytest.fixture
def carried(tmp_path: Path) -> str:
    layout = Layout(tmp_path / "carried/models")
    carry(layout, "org--model", FILES)
    carry(layout, "org--model--v1.0", FILES, revision="v1.0")
    carry(layout, "org--model--refs_pr_1", FILES, revision="refs/pr/1")
    return f"oci:{tmp_path}/carried"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HUB_CACHE, with the Hub unreachable."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def judge(revision: str = ""):
    done = subprocess.run([sys.executable, "-c", JUDGE, revision], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_complete_snapshot(carried, cache):
    result = run("org/model", None, source=carried, layout="hf-cache")
    seen = judge()
    assert seen["folder"] == result.destination
    assert seen["files"] == {path: len(data) for path, data in FILES.items()}
    assert seen["config"] == FILES["config.json"].decode()
    # Files with the same bytes share one blob.
    assert seen["repos"] == [["org/model", "model", len(FILES), ["main"]]]
    assert seen["warnings"] == []
    assert sorted(path.name for path in cache.iterdir()) == ["CACHEDIR.TAG", "models--org--model"]


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", COMMIT])
@pytest.mark.usefixtures("cache")
def test_revisions(carried, revision):
    run(f"org/model@{revision}" if revision != COMMIT else "org/model", None, source=carried, layout="hf-cache")
    assert judge(revision)["files"].keys() == FILES.keys()


@pytest.mark.usefixtures("cache")
def test_several_revisions_share_the_blobs(carried):
    run("org/model", None, source=carried, layout="hf-cache")
    again = run("org/model@v1.0", None, source=carried, layout="hf-cache")
    assert again.bytes_written == 0
    assert judge("v1.0")["repos"][0][3] == ["main", "v1.0"]


@pytest.mark.usefixtures("cache")
def test_an_incomplete_snapshot_is_not_taken_for_a_complete_one(carried):
    run("org/model", None, source=carried, layout="hf-cache", include=("config.json",))
    assert judge() == {"error": "IncompleteSnapshotError"}
    run("org/model", None, source=carried, layout="hf-cache")
    assert judge()["files"].keys() == FILES.keys()


@pytest.mark.usefixtures("cache")
def test_a_snapshot_of_selected_files(tmp_path):
    files = {"config.json": b"{}"}
    carry(Layout(tmp_path / "part/models"), "org--model", files, selection=Selection(include=("config.json",)))
    run("org/model", None, source=f"oci:{tmp_path}/part", layout="hf-cache")
    assert judge()["files"] == {"config.json": 2}


def test_a_partly_deleted_cache_is_completed(carried, cache):
    run("org/model", None, source=carried, layout="hf-cache")
    repo = cache / "models--org--model"
    (repo / "snapshots" / COMMIT / "config.json").unlink()
    (repo / "refs/main").unlink()
    next((repo / "blobs").iterdir()).unlink()
    run("org/model", None, source=carried, layout="hf-cache")
    assert judge()["files"].keys() == FILES.keys()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HUB_CACHE": "/somewhere/hub"},
        {"HF_HUB_CACHE": "~/a/$USER_NAME/hub", "USER_NAME": "ann"},
        {"HUGGINGFACE_HUB_CACHE": "/old/hub", "HF_HOME": "/home/hf"},
        {"HF_HOME": "~/hf"},
        {"XDG_CACHE_HOME": "/xdg"},
    ],
    ids=str,
)
def test_the_default_cache_is_that_of_huggingface_hub(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert str(default_cache()) == theirs


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_an_unknown_home_directory(carried, variable, monkeypatch):
    monkeypatch.setenv(variable, "~nobody-here/x")
    with pytest.raises(UsageError, match=f"^{variable}: unknown home directory in '~nobody-here/x.*'$"):
        run("org/model", None, source=carried, layout="hf-cache")


@pytest.mark.usefixtures("cache")
def test_other_images_cannot_be_extracted_into_a_cache(busybox_base):
    with pytest.raises(UsageError, match="no file index"):
        run(f"oci:{busybox_base}", None, layout="hf-cache")
