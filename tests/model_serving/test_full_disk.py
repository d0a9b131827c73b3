"""`llmstack serve` with a Docker Engine whose disk is full."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.engine.containers import mounts_images
from llmstack.engine.docker_engine import Engine as OurEngine
from llmstack.oci.layout import Layout
from tests.support.carried import carry
from tests.support.cli import Run, run_llmstack
from tests.support.disk import small_disk
from tests.support.engine import Engine, own_engine
from tests.support.recipes import BUSYBOX, load_layout
from tests.support.registry import Registry
from tests.support.serving import repository

MODEL = {"a-Q4_K_M.gguf": os.urandom(12_000_000)}
HINT = "free some space on the disk of the Docker Engine: docker system df, docker system prune"


pytestmark = [pytest.mark.engine, pytest.mark.system]


@pytest.fixture
def small_engine(busybox_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Engine, Path]]:
    """An engine with the server's image and a disk of its own."""
    # pytest's directories are too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="llmstack-engine-") as folder,
        small_disk(Path(folder, "disk"), 40_000_000) as disk,
        own_engine(disk / "engine") as engine,
    ):
        load_layout(engine, busybox_base, BUSYBOX)
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        yield engine, disk


def fill(disk: Path, left: int) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    return ballast


def check(done: Run, what: str) -> None:
    assert done.code == 6, done.stderr
    assert re.search(rf"{re.escape(what)}\S*: the Docker Engine answered: .*no space left on device", done.stderr)
    assert done.stderr.endswith(f"hint: {HINT}\n")


def test_the_disk_fills_up_while_the_model_gets_into_the_engine(
    small_engine: tuple[Engine, Path], registry: Registry, busybox_base: Path
):
    engine, disk = small_engine
    namespace = registry.namespace()
    carry(repository(namespace), "org--large", MODEL, repo_id="org/large", base=f"oci:{busybox_base}:latest")
    image = f"{namespace}/models:org--large"
    serve = ["serve", "org/large", "--from", namespace, "--server-image", BUSYBOX]
    ballast = fill(disk, len(next(iter(MODEL.values()))) // 2)
    check(run_llmstack(*serve), f"pulling {image}")
    ballast.unlink()
    engine.docker("pull", image)
    with OurEngine() as ours:
        if mounts_images(ours):
            return
    fill(disk, len(next(iter(MODEL.values()))) // 2)
    check(run_llmstack(*serve), f"copying the model of {image} into the volume llmstack-model-")
    assert engine.docker("volume", "ls", "--quiet").stdout == ""
    assert engine.docker("ps", "--all", "--quiet").stdout == ""


def test_the_disk_fills_up_while_a_layout_is_loaded(
    small_engine: tuple[Engine, Path], busybox_base: Path, tmp_path: Path
):
    engine, disk = small_engine
    base = f"oci:{busybox_base}:latest"
    carry(Layout(tmp_path / "models"), "org--large", MODEL, repo_id="org/large", base=base)
    fill(disk, len(next(iter(MODEL.values()))) // 2)
    check(run_llmstack("serve", "org/large", "--from", f"oci:{tmp_path}", "--server-image", BUSYBOX), "loading ")
    assert engine.docker("ps", "--all", "--quiet").stdout == ""
