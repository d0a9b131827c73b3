"""Configs, manifests and index of a carried image: deterministic, and valid by the image spec."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from packaging.licenses import canonicalize_license_expression

from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.selection import NO_SELECTION
from llmstack.carried_image.spdx import _EXPRESSIONS, spdx_expression
from llmstack.ferrying.assemble import assemble, image_annotations
from llmstack.ferrying.base_image import BaseImage, BasePlatform, load_base
from llmstack.net import Client
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import (
    CONFIG,
    DOCKER_LAYER_GZIP,
    LAYER_GZIP,
    LAYER_TAR,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)

INDEX = FileIndex("org/tiny", "model", "main", "c" * 40, "2024-01-01T12:00:00Z", "mit", False, NO_SELECTION, ())
LAYERS = (
    Descriptor(LAYER_TAR, Digest.of(b"big"), 10, {"org.cncf.model.filepath": "model.safetensors"}),
    Descriptor(LAYER_TAR, Digest.of(b"small"), 20),
    Descriptor(LAYER_TAR, Digest.of(b"index"), 30, {"dev.llmstack.layer": "index"}),
)
SCRATCH = load_base("scratch", Registries(Client(), lambda _: None))


def base_of(config: dict, layers: int = 1) -> BaseImage:
    diff_ids = [Digest.of(b"base%d" % number) for number in range(layers)]
    value = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **config}
    blobs = tuple(Descriptor(DOCKER_LAYER_GZIP, Digest.of(b"z%d" % n), 5, {"x": "y"}) for n in range(layers))
    return BaseImage("b", Digest.of(b"b"), (BasePlatform(Platform("linux", "amd64"), ImageConfig(value), blobs),), None)


def config_of(index: FileIndex, base: BaseImage) -> dict:
    return json.loads(assemble(index, base, LAYERS).configs[0])


def test_the_digest_never_changes():
    """The digest of an image must not depend on the date, the machine or the release."""
    assert assemble(INDEX, SCRATCH, LAYERS) == assemble(INDEX, SCRATCH, list(LAYERS))
    assert assemble(INDEX, SCRATCH, LAYERS).index.digest == (
        "sha256:9679e9d8784f66740a354bc5628487e794b3d8c81adcb2f5ef31e5b7ee44a16e"
    )


def test_one_manifest_per_platform_and_an_index():
    made = assemble(INDEX, SCRATCH, LAYERS)
    index = Index.parse(made.index)
    assert [str(item.platform) for item in index.manifests] == ["linux/amd64", "linux/arm64/v8"]
    assert [item.digest for item in index.manifests] == [document.digest for document in made.manifests]
    for data, document, platform in zip(made.configs, made.manifests, ("amd64", "arm64"), strict=True):
        manifest = Manifest.parse(document)
        assert manifest.config == Descriptor(CONFIG, Digest.of(data), len(data))
        assert manifest.layers == LAYERS
        config = json.loads(data)
        assert config["architecture"] == platform
        assert config["rootfs"]["diff_ids"] == [layer.digest for layer in LAYERS]
        assert config["created"] == INDEX.created
        assert [line["created_by"].rpartition(": ")[2] for line in config["history"]] == [
            "model.safetensors",
            "small files",
            "file index",
        ]


def test_annotations_and_labels_are_equal_on_all_manifests():
    made = assemble(INDEX, SCRATCH, LAYERS)
    notes = {
        "org.opencontainers.image.title": "org/tiny",
        "org.opencontainers.image.source": "https://huggingface.co/org/tiny",
        "org.opencontainers.image.revision": "c" * 40,
        "org.opencontainers.image.version": "main",
        "org.opencontainers.image.licenses": "MIT",
        "org.opencontainers.image.created": "2024-01-01T12:00:00Z",
        "dev.llmstack.repo-id": "org/tiny",
        "dev.llmstack.repo-type": "model",
        "dev.llmstack.format": "3",
        "dev.llmstack.license": "mit",
    }
    assert Index.parse(made.index).annotations == notes
    for document, config in zip(made.manifests, made.configs, strict=True):
        assert Manifest.parse(document).annotations == notes
        assert json.loads(config)["config"]["Labels"] == notes


def test_annotations_of_a_dataset_without_license_and_base():
    notes = image_annotations(replace(INDEX, repo_type="dataset", license=None), SCRATCH)
    assert notes["org.opencontainers.image.source"] == "https://huggingface.co/datasets/org/tiny"
    assert "org.opencontainers.image.licenses" not in notes
    assert not any("base" in name for name in notes)


@pytest.mark.parametrize("license_id", ["other", "llama3.1", "gpl", "mit OR apache-2.0", "MIT License"])
def test_a_license_without_an_spdx_expression_has_its_name_on_the_hub_only(license_id: str):
    notes = image_annotations(replace(INDEX, license=license_id), SCRATCH)
    assert notes["dev.llmstack.license"] == license_id
    assert "org.opencontainers.image.licenses" not in notes


def test_licenses_are_valid_spdx_expressions():
    assert {spdx_expression(name) for name in ("apache-2.0", "Apache-2.0")} == {"Apache-2.0"}
    assert spdx_expression(None) is None
    for name, expression in _EXPRESSIONS.items():
        assert name == name.lower()
        assert canonicalize_license_expression(expression) == expression


def test_config_and_layers_of_the_base_are_kept():
    base = base_of(
        {
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"of": "base", "dev.llmstack.format": "lie"}},
            "history": [{"created_by": "one"}, {"created_by": "empty", "empty_layer": True}],
            "os.version": "1",
        }
    )
    config = config_of(INDEX, base)
    assert config["config"]["Cmd"] == ["sh"]
    assert config["config"]["Env"] == ["PATH=/bin"]
    assert config["config"]["Labels"]["of"] == "base"
    assert config["config"]["Labels"]["dev.llmstack.format"] == "3"
    assert config["config"]["Labels"]["org.opencontainers.image.base.digest"] == Digest.of(b"b")
    assert config["os.version"] == "1"
    assert [line["created_by"] for line in config["history"]][:2] == ["one", "empty"]
    manifest = Manifest.parse(assemble(INDEX, base, LAYERS).manifests[0])
    assert manifest.layers[0] == Descriptor(LAYER_GZIP, Digest.of(b"z0"), 5)


@pytest.mark.parametrize("history", [None, [], "x", [7], [{"created_by": "a"}] * 3, [{"empty_layer": True}]])
def test_a_history_that_does_not_match_the_layers_is_replaced(history: object):
    """Docker rejects an image whose history does not match its layers."""
    config = config_of(INDEX, base_of({"history": history, "config": None}, layers=2))
    lines = [line for line in config["history"] if not line.get("empty_layer")]
    assert len(lines) == len(config["rootfs"]["diff_ids"]) == 5
