"""Hubs that serve the same repos from a registry and from a layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llmstack.ferrying.layer_plan import Limits
from llmstack.oci.layout import Layout
from llmstack.oci.store import BlobStore
from tests.support.carried import carry
from tests.support.registry import Registry, plain_registry
from tests.support.serving import CLIENTS, Serving, install_client, repository, serving

OLD = "00000000000000000000000000000000000000aa"
# What a browser sends.
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
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
    """Carry the repos that the hubs serve."""
    carry(models, "org--model", FILES)
    carry(models, "org--model--v1.0", {"config.json": b"{}"}, revision="v1.0", commit=OLD)
    carry(models, "org--parts", {"w.bin": WEIGHTS}, repo_id="org/parts", limits=IN_PARTS)
    carry(models, "gpt2", {"config.json": b'{"n": 2}'}, repo_id="gpt2")
    carry(models, "gpt2--refs_pr_1", {"config.json": b"{}"}, repo_id="gpt2", revision="refs/pr/1", commit=OLD)
    carry(datasets, "org--set", {"data/train.csv": b"a,b\n1,2\n"}, repo_id="org/set", repo_type="dataset")


@pytest.fixture(scope="session")
def polled_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for the hubs of the session: their refreshes would disturb tests that count requests."""
    with plain_registry(tmp_path_factory.mktemp("polled-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def served_registry(polled_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub for a registry."""
    namespace = polled_registry.namespace()
    fill(repository(namespace), repository(namespace, "dataset"))
    with serving(tmp_path_factory.mktemp("hub"), namespace) as hub:
        yield hub


@pytest.fixture(scope="session")
def served_layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub for an OCI layout."""
    folder = tmp_path_factory.mktemp("carried")
    fill(Layout(folder / "models"), Layout(folder / "datasets"))
    with serving(tmp_path_factory.mktemp("hub"), f"oci:{folder}") as hub:
        yield hub


RUNS = b"<script>alert('file')</script>"
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30">
<style>@import url("http://evil.invalid/a.css");</style><image href="http://evil.invalid/a.png"/>
<script>alert("svg")</script><rect width="40" height="30" onload="alert('svg')"/></svg>"""
# Without a sanitizer, each element opens a dialog or requests something from another host.
HOSTILE = b"""---
license: mit
---
# Hostile
<script>alert("script")</script>
<img src="x" onerror="alert('handler')">
<svg onload="alert('svg')"><image href="http://evil.invalid/b.png"/></svg>
<iframe src="javascript:alert('frame')"></iframe>
<details open ontoggle="alert('toggle')"><summary>more</summary></details>
<link rel="stylesheet" href="http://evil.invalid/c.css">
<style>body { background: url(http://evil.invalid/d.png) }</style>
<meta http-equiv="refresh" content="0;url=http://evil.invalid/">

[link](javascript:alert('link')) and <a href="javascript:alert('link')" id="bad">another</a>

![remote](http://evil.invalid/e.png) ![own](pictures/own.svg)
"""
HOSTILE_CSV = b""""a",<script>alert("csv")</script>
"=HYPERLINK(""http://evil.invalid/"")",<img src=x onerror=alert(1)>
"""
LONG_NAME = "a-rather-long-organisation-name/An-Extremely-Long-Model-Name-70B-Instruct-v2.5-GPTQ-Int4-128g"


@pytest.fixture(scope="session")
def served_pages(
    polled_registry: Registry, busybox_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A hub with repos for the pages: hostile READMEs and files, long names, an image that runs."""
    namespace = polled_registry.namespace()
    models = repository(namespace)
    names = ("a.html", "a.svg", "a.xhtml", "a.js", "a.png", "a.xml", "a.txt", "LICENSE")
    carry(models, "bad--files", dict.fromkeys(names, RUNS), repo_id="bad/files")
    carry(models, "bad--readme", {"README.md": HOSTILE, "pictures/own.svg": SVG}, repo_id="bad/readme")
    long = {"README.md": b"# Wide\n\n|" + b" a column |" * 20 + b"\n|" + b"-|" * 20, "w" * 120 + ".bin": b"w"}
    carry(models, LONG_NAME.replace("/", "--"), long, repo_id=LONG_NAME)
    base = f"oci:{busybox_base}:latest"
    carry(models, "good--runs", {"README.md": b"# Runs", "data/a.txt": b"a"}, repo_id="good/runs", base=base)
    rows = {"a.csv": b"a\n1\n", "bad.csv": HOSTILE_CSV}
    carry(repository(namespace, "dataset"), "good--set", rows, repo_id="good/set", repo_type="dataset")
    with serving(tmp_path_factory.mktemp("hub"), namespace) as hub:
        yield hub


@pytest.fixture(scope="session")
def clients() -> Mapping[str, Path]:
    """The packages of the real clients by version."""
    return {version: install_client(version) for version in CLIENTS}
