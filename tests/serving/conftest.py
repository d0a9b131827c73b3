"""A registry and a layout that hold the same repos, and hubs that serve them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llmstack.ferry.plan import Limits
from llmstack.oci.layout import Layout
from llmstack.oci.store import BlobStore
from tests.support.carried import carry
from tests.support.registry import Registry
from tests.support.serving import Serving, install_client, repository, serving

OLD = "00000000000000000000000000000000000000aa"
README = b"""---
license: mit
tags: [small]
pipeline_tag: feature-extraction
library_name: transformers
---
# A model
"""
WEIGHTS = os.urandom(3 * 1024 * 1024 + 17)
IN_PARTS = Limits(large=64 * 1024, bundle=96 * 1024, layer_size=1_000_000, split_large=True)
FILES: Mapping[str, bytes] = {
    "README.md": README,
    "config.json": b'{"model_type": "bert"}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "sub dir/a+b%2Fé.json": b"[1]",
    "sub dir/deep/more.txt": b"more",
}


def fill(models: BlobStore, datasets: BlobStore) -> None:
    """Carry what the hubs serve."""
    carry(models, "org--model", FILES)
    carry(models, "org--model--v1.0", {"config.json": b"{}"}, revision="v1.0", commit=OLD)
    carry(models, "org--parts", {"w.bin": WEIGHTS}, repo_id="org/parts", limits=IN_PARTS)
    carry(models, "gpt2", {"config.json": b'{"n": 2}'}, repo_id="gpt2")
    carry(datasets, "org--set", {"data/train.csv": b"a,b\n1,2\n"}, repo_id="org/set", repo_type="dataset")


@pytest.fixture(scope="session")
def served_registry(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub before a registry."""
    namespace = registry.namespace()
    fill(repository(namespace), repository(namespace, "dataset"))
    with serving(tmp_path_factory.mktemp("hub"), namespace) as hub:
        yield hub


@pytest.fixture(scope="session")
def served_layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub before a folder."""
    folder = tmp_path_factory.mktemp("carried")
    fill(Layout(folder / "models"), Layout(folder / "datasets"))
    with serving(tmp_path_factory.mktemp("hub"), f"oci:{folder}") as hub:
        yield hub


@pytest.fixture(scope="session")
def clients() -> Mapping[str, Path]:
    """The real clients' packages by their line of versions."""
    return {version: install_client(version) for version in ("0.36", "1", "2")}
