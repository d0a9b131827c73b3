"""tools/pin-bases, which the locks workflow runs: it writes the digests of base images into image.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import need
from tests.support.registry import Registry
from tests.workflows.fork import Fork

YAML = """\
description: A test
variants:
  cpu:
    # Its tag is base.
    base: {base}
    stages:
      build: {base}
  other:
    base: {base}-slim@sha256:{old}
"""


def test_bases_get_the_digests_of_their_tags(
    registry: Registry, busybox_base: Path, tmp_path: Path, pytestconfig: pytest.Config
):
    base = f"{registry.namespace()}/base:1"
    copy = [need("skopeo", "skopeo"), "copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false"]
    for tag in (base, f"{base}-slim"):
        digest = tmp_path / "digest"
        subprocess.run([*copy, "--digestfile", digest, f"oci:{busybox_base}:latest", f"docker://{tag}"], check=True)
    fork = Fork(pytestconfig.rootpath, tmp_path / "fork")
    recipe = fork.clone / "images" / "box"
    recipe.mkdir()
    recipe.joinpath("Dockerfile.j2").touch()
    recipe.joinpath("image.yaml").write_text(YAML.format(base=base, old=64 * "0"))
    for _ in range(2):
        subprocess.run(
            [sys.executable, fork.clone / "tools" / "pin-bases", "box"],
            env={**os.environ, "PYTHONPATH": str(fork.clone / "src"), "LLMSTACK_PLAIN_HTTP": registry.host},
            check=True,
        )
        expected = YAML.replace("{base}-slim@sha256:{old}", "{slim}").replace(": {base}", ": {base}@{digest}")
        written = expected.format(base=base, slim=f"{base}-slim@{digest.read_text()}", digest=digest.read_text())
        assert recipe.joinpath("image.yaml").read_text() == written
