"""The release workflow, and rules that all workflows keep."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

import llmstack
from tests.workflows.actions import load

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
WORKFLOWS = {path.name: load(path) for path in sorted(FOLDER.glob("*.yml"))}


def uses() -> set[str]:
    return {
        step["uses"]
        for workflow in WORKFLOWS.values()
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "uses" in step
    }


@pytest.mark.parametrize(("tag", "code"), [(f"v{llmstack.__version__}", 0), ("v0.0.1", 1), ("v", 1)])
def test_release_requires_tag_to_equal_version(tag: str, code: int):
    [step] = [
        step
        for step in WORKFLOWS["release.yml"]["jobs"]["build"]["steps"]
        if step.get("name") == "Compare the tag with the version"
    ]
    environment = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin", "TAG": tag}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, capture_output=True, check=False)
    assert done.returncode == code, done.stdout


def test_release_runs_for_tags_only():
    assert WORKFLOWS["release.yml"]["on"] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_pull_requests_cannot_publish(name: str):
    workflow = WORKFLOWS[name]
    if "pull_request" not in workflow["on"]:
        return
    for job in workflow["jobs"].values():
        permissions = job.get("permissions", workflow["permissions"])
        writes = "write" in permissions.values()
        assert not writes or "github.event_name == 'push'" in job["if"]
        assert "secrets." not in str(job)


def test_actions_are_pinned_to_one_commit_each():
    assert all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", use) for use in uses())
    assert len({use.partition("@")[0] for use in uses()}) == len(uses())


def test_publishing_uses_no_stored_token():
    publish = WORKFLOWS["release.yml"]["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in str(publish)
