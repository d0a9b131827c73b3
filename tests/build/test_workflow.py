"""The workflow that builds images: what it finds to build, and what zizmor says of it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "changed-recipes"


@pytest.fixture
def checkout(tmp_path):
    """A repository that has the same paths in images/ as this one, and a function that changes one and commits."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]

    def run(*arguments):
        return subprocess.run([*git, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    def commit(path):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / path).open("a") as file:
            file.write("changed\n")
        run("add", "--all")
        run("commit", "--quiet", "--message", path)
        return run("rev-parse", "HEAD")

    run("init", "--quiet")
    commit.folder = tmp_path
    commit("images/hf/image.yaml")
    return commit


def changed(checkout, old, new, *named, variant="cpu"):
    command = [sys.executable, SCRIPT, variant, old, new, *named]
    return subprocess.run(command, cwd=checkout.folder, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("path", "recipes"),
    [
        ("images/hf/Dockerfile.j2", ["hf", "hf-dev"]),
        ("images/hf-dev/login.py", ["hf-dev"]),
        ("images/model/image.yaml", []),
        ("images/hadolint.yaml", []),
        ("src/llmstack/errors.py", []),
        ("images/_shared/macros.j2", ["hf", "hub", "llama.cpp", "llm-factory", "lmql", "vllm", "hf-dev"]),
    ],
)
def test_changes_touch_recipes_and_their_children(checkout, path, recipes):
    old = checkout("README.md")
    new = checkout(path)
    assert changed(checkout, old, new) == recipes


def test_without_an_old_commit_everything_is_new(checkout):
    assert changed(checkout, "0" * 40, checkout("README.md")) == ["hf", "hf-dev"]


def test_recipes_without_the_variant_are_left_out(checkout):
    old = checkout("README.md")
    new = checkout("images/_shared/macros.j2")
    assert "hub" not in changed(checkout, old, new, variant="cuda13")
    assert changed(checkout, old, new, "hub", "vllm", variant="cuda13") == ["vllm"]
    assert changed(checkout, old, new, "hub", "vllm") == ["hub", "vllm"]


def test_zizmor_finds_nothing_in_the_workflow():
    zizmor = Path(sysconfig.get_path("scripts")) / "zizmor"
    workflow = ROOT / ".github" / "workflows" / "images.yml"
    done = subprocess.run(
        [zizmor, "--offline", "--persona=pedantic", workflow], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
