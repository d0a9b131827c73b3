"""Images from the Docker Engine, and into it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmstack.bundles.load import LoadResult
from llmstack.errors import NotFoundError
from llmstack.oci.layout import Layout
from llmstack.oci.spec import ImageConfig, Manifest
from llmstack.oci.store import read_verified
from llmstack.session import Session
from tests.bundles.support import checksums_are_right
from tests.support.carried import carry
from tests.support.engine import Engine
from tests.support.process import need
from tests.support.recipes import BUSYBOX

BUILT = "llmstack-test-saved/tool:v1"


def docker(engine: Engine, *arguments: str, **options) -> str:
    command = [need("docker", "docker.io"), "--host", engine.host, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture
def built(engine: Engine, busybox: str):
    """An image of two layers more than busybox."""
    del busybox
    context = f"FROM {BUSYBOX}\nRUN dd if=/dev/zero of=/big bs=1000 count=3000\nRUN echo hello > /hello\n"
    docker(engine, "build", "--quiet", "--tag", BUILT, "-", input=context)
    yield BUILT
    docker(engine, "rmi", "--force", BUILT)


@pytest.mark.parametrize("volume_size", [None, "1MB"])
def test_an_image_of_the_engine_crosses_the_gap(engine: Engine, built: str, tmp_path: Path, volume_size: str | None):
    session = Session.from_settings(namespace="oci:near")
    saved = session.save(f"docker-daemon:{built}", tmp_path / "b", volume_size=volume_size)
    assert [image.image for image in saved.images] == ["tool:v1"]
    assert all(checksums_are_right(path.parent) for path in (tmp_path / "b").rglob("SHA256SUMS"))
    [loaded] = session.load(tmp_path / "b", to=f"oci:{tmp_path}/far")
    assert loaded.status == "loaded"
    layout = Layout(tmp_path / "far/tool")
    manifest = Manifest.parse(layout.manifest("v1"))
    config = ImageConfig.parse(read_verified(layout, manifest.config, 1_000_000))
    details = docker(engine, "inspect", "--format", '{{join .RootFS.Layers " "}}', built)
    assert list(config.diff_ids) == details.split()


def test_a_bundle_is_loaded_into_the_engine_and_runs(engine: Engine, tmp_path: Path, busybox_base: Path):
    files = {"config.json": b"{}", "model.safetensors": bytes(300_000)}
    carry(Layout(tmp_path / "near/models"), "org--model", files, base=f"oci:{busybox_base}:latest")
    session = Session.from_settings()
    session.save((), tmp_path / "b", source=f"oci:{tmp_path}/near")
    name = "registry.inside:5000/llm/models:org--model"

    def load() -> LoadResult:
        [result] = session.load(tmp_path / "b", to="docker-daemon:registry.inside:5000/llm")
        return result

    try:
        assert [(image.image, image.status) for image in load().images] == [(f"docker-daemon:{name}", "loaded")]
        assert docker(engine, "run", "--rm", name, "sh", "-c", "wc -c < /models/model.safetensors").strip() == "300000"
        assert load().status == "up-to-date"
    finally:
        docker(engine, "rmi", "--force", name)


def test_all_volumes_are_needed_at_once(engine: Engine, tmp_path: Path):
    del engine
    carry(Layout(tmp_path / "near/models"), "org--model", {"model.safetensors": bytes(2_500_000)})
    session = Session.from_settings()
    session.save((), tmp_path / "b", source=f"oci:{tmp_path}/near", volume_size="1MB")
    with pytest.raises(NotFoundError, match="still needs volumes 2, 3") as caught:
        session.load(tmp_path / "b/volume-001", to="docker-daemon:registry.inside:5000/llm")
    assert "all volumes at once" in str(caught.value.hint)
