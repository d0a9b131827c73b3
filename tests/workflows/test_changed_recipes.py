"""The scripts that choose which recipes and variants the images workflow builds, and zizmor's check of it."""

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
    """A function that changes a path in a temporary repository and commits it."""
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


def changed(checkout, old, new):
    command = [sys.executable, SCRIPT, old, new]
    return subprocess.run(command, cwd=checkout.folder, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "recipes"),
    [
        ("images/hf/Dockerfile.j2", ["hf", "hf-dev"]),
        ("images/hf-dev/login.py", ["hf-dev"]),
        ("images/model/image.yaml", []),
        ("images/hadolint.yaml", []),
        ("src/llmstack/errors.py", []),
        ("images/_shared/macros.j2", ["hf", "hf-dev", "hub", "llama.cpp", "llm-factory", "lmql", "vllm"]),
    ],
)
def test_change_affects_recipes_and_their_children(checkout, path, recipes):
    old = checkout("README.md")
    new = checkout(path)
    assert changed(checkout, old, new) == recipes


def test_unknown_old_commit_affects_all_recipes(checkout):
    assert changed(checkout, "0" * 40, checkout("README.md")) == ["hf", "hf-dev"]


@pytest.mark.parametrize(
    ("recipe", "track", "variants"),
    [
        ("hf", "cpu", ["cpu"]),
        ("llama.cpp", "cuda11.8", ["cuda11.8", "cuda11.8-dev"]),
        ("pip-offline", "cuda13", []),
    ],
)
def test_track_has_all_variants_with_its_prefix(recipe, track, variants):
    command = [sys.executable, ROOT / "tools" / "track-variants", recipe, track]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == variants


def test_unknown_recipe_is_an_error():
    command = [sys.executable, ROOT / "tools" / "track-variants", "nope", "cpu"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("recipe 'nope': not found (known recipes: ")


def test_zizmor_reports_no_finding_in_the_workflow():
    zizmor = Path(sysconfig.get_path("scripts")) / "zizmor"
    workflow = ROOT / ".github" / "workflows" / "images.yml"
    done = subprocess.run(
        [zizmor, "--offline", "--persona=pedantic", workflow], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
