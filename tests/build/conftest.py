"""A small base image in the engine, and recipes of the tests' own on top of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llmstack.recipes.shelf import images_folder
from tests.support.engine import Engine
from tests.support.process import need

BUSYBOX = "llmstack-test-busybox:latest"


@pytest.fixture(scope="session")
def busybox(shared_engine: Engine, busybox_base: Path) -> str:
    """The name of a busybox image in the engine."""
    load_layout(shared_engine, busybox_base, BUSYBOX)
    return BUSYBOX


def load_layout(engine: Engine, layout: Path, name: str) -> None:
    """Put an OCI layout's image into the engine."""
    command = [need("skopeo", "skopeo"), "copy", "--quiet", "--insecure-policy", "--dest-daemon-host", engine.host]
    subprocess.run([*command, f"oci:{layout}:latest", f"docker-daemon:{name}"], check=True)


@pytest.fixture
def shelf(engine: Engine, tmp_path: Path) -> Path:  # noqa: ARG001 - what is on it will be built
    """A folder of recipes that holds the shared parts only, and an engine to build them."""
    folder = tmp_path / "images"
    shutil.copytree(images_folder() / "_shared", folder / "_shared")
    return folder


def write_recipe(shelf: Path, name: str, yaml: str, template: str) -> None:
    """Write a recipe; the template begins after the import of the shared steps."""
    (shelf / name).mkdir()
    (shelf / name / "image.yaml").write_text(yaml)
    (shelf / name / "Dockerfile.j2").write_text('{% import "_shared/macros.j2" as steps with context %}\n' + template)
