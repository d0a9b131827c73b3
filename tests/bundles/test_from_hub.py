"""save --from-hub: from the Hub into a bundle in one pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.support import FILES, checksums_are_right
from tests.support.cli import run_llmstack
from tests.support.hub import Hub

pytestmark = pytest.mark.slow


def test_a_repo_goes_from_the_hub_to_the_disk(hub: Hub, tmp_path: Path):
    hub.add_repo("org/model", FILES)
    hub.add_repo("org/other", {"x": b"x"})
    # A run that ended early leaves repos that this one does not name.
    command = ["save", "org/model", "--from-hub", "--base", "scratch", "--exclude", "b.*", "--to", "b"]
    assert run_llmstack(*command, "org/other", "org/absent", cwd=tmp_path).code == 3
    run = run_llmstack(*command, cwd=tmp_path)
    assert run.code == 0, run.stderr
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "SHA256SUMS",
        "blobs",
        "bundle.json",
        "index.json",
        "oci-layout",
    ]
    assert checksums_are_right(tmp_path / "b")
    assert run_llmstack("load", "b", "--to", "oci:far", cwd=tmp_path).code == 0
    assert run_llmstack("extract", "org/model", "out", "--from", "oci:far", cwd=tmp_path).code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES.keys() - {"b.safetensors"}
    assert run_llmstack("extract", "org/other", "out", "--from", "oci:far", cwd=tmp_path).code == 3


def test_options_of_ferry_need_the_hub(tmp_path: Path):
    run = run_llmstack("save", "org/model", "--from", "oci:near", "--to", "b", "--include", "*", cwd=tmp_path)
    assert (run.code, "require --from-hub" in run.stderr) == (2, True)


def test_volumes_and_an_absent_repo(hub: Hub, tmp_path: Path):
    hub.add_repo("org/model", FILES)
    env = {"LLMSTACK_BASE": "scratch"}
    failed = run_llmstack("save", "org/model", "org/absent", "--from-hub", "--to", "b", cwd=tmp_path, env=env)
    assert failed.code == 3
    assert "org/absent" in failed.stderr
    assert not (tmp_path / "b/SHA256SUMS").exists()
    # What was carried is used by the next run.
    command = ["save", "org/model", "--from-hub", "--to", "b", "--volume-size", "1MB"]
    assert run_llmstack(*command, cwd=tmp_path, env=env).code == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["volume-001", "volume-002", "volume-003"]
    assert all(checksums_are_right(volume) for volume in (tmp_path / "b").iterdir())


# In a separate process: huggingface_hub reads HF_ENDPOINT when it is imported.
BROKEN = """
import sys
from llmstack.bundles import volume_writer
from llmstack.session import Session

def fail(*_arguments):
    raise OSError(5, "Input/output error")

volume_writer.replace_file = fail
Session.from_settings(base="scratch").save("org/model", "b", from_hub=True)
"""


def test_a_run_that_broke_off_while_the_bundle_was_made(hub: Hub, tmp_path: Path):
    """Blobs have moved already: the bundle is the one that was begun, without another transfer."""
    hub.add_repo("org/model", FILES)
    env = {"LLMSTACK_BASE": "scratch"}
    broken = subprocess.run([sys.executable, "-c", BROKEN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Input/output error" in broken.stderr
    assert (tmp_path / "b/save.json").exists()
    hub.repos.clear()
    command = ["save", "org/model", "--from-hub", "--to", "b"]
    resumed = run_llmstack(*command, cwd=tmp_path, env=env)
    assert resumed.code == 0, resumed.stderr
    assert checksums_are_right(tmp_path / "b")
    assert not (tmp_path / "b/hub").exists()
    again = run_llmstack(*command, cwd=tmp_path, env=env)
    assert (again.code, "complete bundle" in again.stderr) == (2, True)
    excluded = run_llmstack(*command, "--dry-run", cwd=tmp_path, env=env)
    assert (excluded.code, "excludes" in excluded.stderr) == (2, True)
