"""A small base image in the Docker Engine, and recipes of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.engine import Engine
from tests.support.process import need

BUSYBOX = "llmstack-test-busybox:latest"


def load_layout(engine: Engine, layout: Path, name: str) -> None:
    """Load the image of an OCI layout into the Docker Engine."""
    command = [need("skopeo", "skopeo"), "copy", "--quiet", "--insecure-policy", "--dest-daemon-host", engine.host]
    subprocess.run([*command, f"oci:{layout}:latest", f"docker-daemon:{name}"], check=True)


def write_recipe(recipes: Path, name: str, yaml: str, template: str) -> None:
    """Write a recipe; the import of the shared steps precedes `template`."""
    (recipes / name).mkdir()
    (recipes / name / "image.yaml").write_text(yaml)
    (recipes / name / "Dockerfile.j2").write_text('{% import "_shared/macros.j2" as steps with context %}\n' + template)
