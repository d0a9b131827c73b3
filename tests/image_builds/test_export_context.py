"""`build --export-context`: a directory that other builders can build. tests/judges builds some."""

from __future__ import annotations

import stat

import pytest

from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import BuildRequest
from llmstack.image_builds.builder import export_context
from llmstack.image_builds.recipe import images_folder, load_recipes
from tests.image_builds.test_wheel_index import write_wheel
from tests.support.cli import run_llmstack
from tests.support.listener import Listener

# The other recipes need files that a command makes.
EXPORTED = [
    (recipe.name, variant)
    for recipe in load_recipes(images_folder()).values()
    for variant in recipe.variants
    if recipe.name not in {"dataset", "model", "pip-offline"}
]
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def export(folder, *arguments, **environment):
    return run_llmstack("build", *arguments, "--export-context", folder, env={**NO_ENGINE, **environment})


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_directory_contains_the_dockerfile_and_its_files(tmp_path):
    done = export(tmp_path / "a" / "lmql", "lmql", "--variant", "cpu")
    assert done.code == 0, done.stderr
    assert done.stdout == f"{tmp_path}/a/lmql\n"
    assert f"docker buildx build --tag lmql:cpu {tmp_path}/a/lmql\n" in done.stderr
    assert files_of(tmp_path / "a" / "lmql") == {
        "Dockerfile": 0o644,
        "_shared/entrypoint.sh": 0o755,
        "health.py": 0o644,
        "lmql-playground.sh": 0o755,
        "packages.txt": 0o644,
    }
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lmql"]
    lines = (tmp_path / "a/lmql/Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["docker.io/library/node:20-bookworm-slim", "docker.io/library/debian:bookworm-slim"]


def test_child_names_the_image_that_it_builds_on(tmp_path):
    done = export(tmp_path / "dev", "hf-dev", "--variant", "cpu", "--json", LLMSTACK_NAMESPACE="registry.site/llm")
    assert done.code == 0, done.stderr
    assert done.json == {
        "recipe": "hf-dev",
        "variant": "cpu",
        "context": str(tmp_path / "dev"),
        "tags": ["registry.site/llm/hf-dev:cpu"],
        "base": "registry.site/llm/hf:cpu",
    }
    assert "its base registry.site/llm/hf:cpu must exist where the context is built\n" in done.stderr


@pytest.mark.slow
def test_generated_files_are_included(tmp_path):
    assert export(tmp_path / "hub", "hub").code == 0
    assert any(name.startswith("wheel/llmstack_ferry-") for name in files_of(tmp_path / "hub"))
    (tmp_path / "requirements.txt").write_text(f"{write_wheel(tmp_path, 'thing', '1.0')}\n")
    done = export(tmp_path / "index", "pip-offline", "--requirements", tmp_path / "requirements.txt")
    assert done.code == 0, done.stderr
    assert {"index/simple/thing/index.html", "index/files/thing-1.0-py3-none-any.whl"} <= set(
        files_of(tmp_path / "index")
    )


@pytest.mark.parametrize(("name", "variant"), EXPORTED)
def test_every_variant_can_be_exported(tmp_path, name, variant):
    export_context(BuildRequest((name,), variant), BuildEnvironment(), tmp_path / "context", Listener())
    assert (tmp_path / "context" / "Dockerfile").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["hf"], "is not an empty directory"),
        (["hf", "vllm"], "the directory holds one context"),
        (["hf", "--push"], "it cannot be combined with --push or --squash"),
    ],
)
def test_invalid_export_is_refused(tmp_path, arguments, cause):
    (tmp_path / "file").touch()
    done = export(tmp_path, *arguments)
    assert done.code == 2
    assert cause in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    closed = export(tmp_path / "file" / "x", "hf")
    assert closed.code == 2
    assert f"{tmp_path}/file/x: cannot be written: " in closed.stderr
