"""Squashing on a real engine: images whose config has no history, or no config object."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from llmstack.engine.docker_engine import Engine as Client
from llmstack.engine.squash import squash_image
from llmstack.errors import LlmstackError
from tests.support.engine import Engine
from tests.support.layers import file, tar
from tests.support.listener import Listener


def load_base(engine: Engine, folder: Path, tag: str, layers: int, **config: object) -> str:
    """Load an image whose config has nothing but the required properties of the image-spec, and `config`."""
    tars = [tar(file(f"base{number}", b"base")) for number in range(layers)]
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in tars]
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **config}
    names = [f"{number}/layer.tar" for number in range(layers)]
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": names}]
    entries = dict(zip(names, tars, strict=True))
    entries |= {"config.json": json.dumps(value).encode(), "manifest.json": json.dumps(manifest).encode()}
    archive = folder / "base.tar"
    archive.write_bytes(tar(*(file(name, data) for name, data in entries.items())))
    engine.docker("load", "--input", str(archive))
    return tag


def build(engine: Engine, folder: Path, base: str, tag: str) -> str:
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base}\nENV A=b\nCOPY Dockerfile /one\nCOPY Dockerfile /two\n")
    engine.docker("build", "--tag", tag, str(context))
    return tag


def squash(image: str, from_layer: str | None = None) -> list[str]:
    """Squash an image; return the layers of the result."""
    with Client() as client:
        squash_image(client, image, f"{image}-squashed", Listener(), from_layer)
        layers: list[str] = client.inspect(f"{image}-squashed")["RootFS"]["Layers"]
    return layers


def files(engine: Engine, image: str) -> set[str]:
    container = engine.docker("create", image, "none").stdout.strip()
    with (
        Client() as client,
        io.BytesIO(b"".join(client.read_tar(container, "/"))) as data,
        tarfile.open(fileobj=data) as found,
    ):
        names = {member.name.lstrip("./") for member in found if member.isfile()}
    engine.docker("rm", container)
    return names & {"base0", "base1", "one", "two"}


@pytest.mark.parametrize("config", [{}, {"config": {"Labels": {"a": "b"}}}], ids=["no config", "config"])
@pytest.mark.parametrize("layers", [1, 2])
def test_all_layers_on_a_base_without_history(engine, tmp_path, layers, config):
    base = load_base(engine, tmp_path, "llmstack-test-base:all", layers, **config)
    image = build(engine, tmp_path, base, "llmstack-test-built:all")
    assert len(squash(image)) == 1
    assert files(engine, f"{image}-squashed") == {*(f"base{number}" for number in range(layers)), "one", "two"}


@pytest.mark.parametrize("from_layer", ["2", "llmstack-test-base:top"])
def test_the_layers_above_a_base_without_history(engine, tmp_path, from_layer):
    base = load_base(engine, tmp_path, "llmstack-test-base:top", 2)
    image = build(engine, tmp_path, base, "llmstack-test-built:top")
    layers = squash(image, from_layer)
    with Client() as client:
        assert layers[:-1] == client.inspect(base)["RootFS"]["Layers"]
    assert files(engine, f"{image}-squashed") == {"base0", "base1", "one", "two"}


def test_an_image_without_any_history(engine, tmp_path):
    image = load_base(engine, tmp_path, "llmstack-test-base:alone", 2)
    assert len(squash(image)) == 1
    assert files(engine, f"{image}-squashed") == {"base0", "base1"}
    single = load_base(engine, tmp_path, "llmstack-test-base:single", 1)
    with pytest.raises(LlmstackError, match="no squashing is required"):
        squash(single)
