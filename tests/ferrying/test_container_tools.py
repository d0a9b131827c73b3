"""Container tools of this machine find a model under /models and /REPO; tests/judges has current versions of others."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import run_llmstack
from tests.support.disk import as_root
from tests.support.engine import Engine
from tests.support.ferry import Port
from tests.support.process import need

FILES = {
    "config.json": b"{}",
    "deep/er/vocab.txt": b"a\nb\n",
    "model.safetensors": os.urandom(17_000_000),
    "sub/" + "n" * 150 + ".txt": b"a long name",
}
ROOTS = ("models", "REPO")
SUMS = "find models REPO -type f -links 2 -exec sha256sum {} + && find models REPO -type d ! -perm 755"
EXPECTED = sorted(
    f"{hashlib.sha256(data).hexdigest()}  {root}/{path}" for path, data in FILES.items() for root in ROOTS
)
CONTAINERD = """
folder=$1 image=$2
containerd --config /dev/null --address $folder/socket --root $folder/root --state $folder/state > $folder/log 2>&1 &
trap "cd /; umount $folder/mount; kill $!; wait; rm -rf $folder" EXIT
until ctr --address $folder/socket version > $folder/version 2>&1; do sleep 0.1; kill -0 $!; done
ctr --address $folder/socket images pull --plain-http $image > $folder/pull
mkdir $folder/mount
ctr --address $folder/socket images mount $image $folder/mount > $folder/mounted
cd $folder/mount
"""


@pytest.fixture
def carried(port: Port) -> str:
    """A carried image of FILES in a registry."""
    port.hub.add_repo("org/tiny", FILES)
    [result] = port.results("org/tiny")
    return str(result["image"])


@pytest.mark.engine
def test_containerd_mounts_both(carried: str, tmp_path: Path):
    (tmp_path / "containerd").mkdir()
    need("containerd", "containerd")
    # In a mount namespace of its own, so that nothing stays mounted.
    command = [*as_root(), need("unshare", "util-linux"), "--mount", "sh", "-ec", CONTAINERD + SUMS, "sh"]
    done = subprocess.run(
        [*command, tmp_path / "containerd", carried], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == EXPECTED


def test_docker_builds_copy_from_both(carried: str, engine: Engine, tmp_path: Path):
    lines = [f"COPY --from={carried} /{root} /{root}" for root in ROOTS]
    (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {carried} AS base", "FROM scratch", *lines]))
    engine.docker("build", "--quiet", "--tag", "copied", str(tmp_path))
    container = engine.docker("create", "copied", "x").stdout.strip()
    for root in ROOTS:
        engine.docker("cp", f"{container}:/{root}", str(tmp_path / root))
        for path, data in FILES.items():
            assert (tmp_path / root / path).read_bytes() == data
    engine.docker("rm", container)


def test_squash_keeps_both(carried: str, engine: Engine):
    engine.docker("pull", "--quiet", carried)
    done = run_llmstack("squash", carried, "--tag", "squashed:both")
    assert done.code == 0, done.stderr
    shell = ("run", "--rm", "--user", "1000", "--network", "none", "squashed:both", "sh", "-c")
    assert sorted(engine.docker(*shell, SUMS).stdout.splitlines()) == EXPECTED
