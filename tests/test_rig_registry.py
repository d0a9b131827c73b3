"""The test registries, the engine and the base image, judged by skopeo and docker."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.base import write_busybox_layout
from tests.support.engine import Engine
from tests.support.process import need
from tests.support.registry import Registry


def skopeo(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [need("skopeo", "skopeo"), "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def credentials(registry: Registry, side: str) -> list[str]:
    options = [f"--{side}-creds={registry.user}:{registry.password}"] if registry.user else []
    if registry.ca_file is None:
        return [*options, f"--{side}-tls-verify=false"]
    return [*options, f"--{side}-cert-dir={registry.ca_file.parent}"]


def blobs(layout: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (layout / "blobs/sha256").iterdir()}


@pytest.mark.parametrize("kind", ["registry", "secure_registry", "token_registry"])
def test_the_base_image_goes_into_a_registry_and_comes_back_unchanged(
    kind: str, request: pytest.FixtureRequest, busybox_base: Path, tmp_path: Path
):
    registry: Registry = request.getfixturevalue(kind)
    image = f"docker://{registry.namespace()}/busybox:latest"
    skopeo("copy", "--all", "--preserve-digests", *credentials(registry, "dest"), f"oci:{busybox_base}:latest", image)
    back = tmp_path / "back"
    skopeo("copy", "--all", "--preserve-digests", *credentials(registry, "src"), image, f"oci:{back}:latest")
    assert blobs(back) == blobs(busybox_base)
    assert all(name == digest for name, digest in blobs(back).items())
