"""Images without a file index, and carried images whose layers a copy has compressed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import CONFIG, LAYER_GZIP, Descriptor, Manifest
from tests.hub_server.test_load import MEGABYTE, memory
from tests.support import layers
from tests.support.carried import carry
from tests.support.registry import Registry
from tests.support.serving import Serving, push, serving

BIG = os.urandom(2_000_000)
LOWER = layers.tar(
    layers.folder("REPO"),
    layers.file("REPO/config.json", b"old"),
    layers.file("REPO/gone.txt", b"gone"),
    layers.file("REPO/model.bin", BIG),
    layers.file("etc/passwd", b"root:x:0:0"),
)
UPPER = layers.tar(
    layers.file("REPO/config.json", b"new"),
    layers.file("REPO/.wh.gone.txt"),
    layers.hardlink("REPO/twin.json", "REPO/config.json"),
    layers.symlink("REPO/link.bin", "model.bin"),
)


@pytest.fixture(scope="module")
def hub(registry: Registry, tmp_path_factory: pytest.TempPathFactory):
    """A hub with three images: uncompressed, gzip, and a carried one that a copy has compressed."""
    folder, namespace = tmp_path_factory.mktemp("others"), registry.namespace()
    plain = layers.image(folder / "plain", LOWER, UPPER)
    push(plain, f"{namespace}/models:other--plain", "--preserve-digests")
    gzipped = layers.image(folder / "gzip", LOWER, UPPER, compression="gzip")
    push(gzipped, f"{namespace}/models:other--gzip--v2", "--preserve-digests")
    carry(Layout(folder / "carried"), "org--copied", {"config.json": b"{}", "w.bin": BIG}, repo_id="org/copied")
    push(f"oci:{folder}/carried:org--copied", f"{namespace}/models:org--copied")
    with serving(folder, namespace) as hub:
        yield hub


def test_uncompressed_layers_are_served_without_a_complete_read(hub: Serving, registry: Registry):
    registry.served()
    tree = json.loads(hub.get("/api/models/other/plain/tree/main?recursive=true").body)
    sizes = {"config.json": 3, "link.bin": len(BIG), "model.bin": len(BIG), "twin.json": 3}
    assert {item["path"]: item["size"] for item in tree} == sizes
    read = sum(request.length for request in registry.served() if "/blobs/" in request.target)
    assert read < len(BIG) / 4
    for path, data in {"config.json": b"new", "twin.json": b"new", "link.bin": BIG, "model.bin": BIG}.items():
        assert hub.get(f"/other/plain/resolve/main/{path}").body == data
    assert hub.get("/other/plain/resolve/main/model.bin", Range="bytes=-9").body == BIG[-9:]
    assert hub.get("/other/plain/resolve/main/gone.txt").status == 404
    # The layers are scanned once, and the commit changes with the content.
    registry.served()
    info = json.loads(hub.get("/api/models/other/plain").body)
    assert len(info["sha"]) == 40
    assert hub.get(f"/other/plain/resolve/{info['sha']}/model.bin").headers["x-repo-commit"] == info["sha"]
    assert sum("/blobs/" in request.target for request in registry.served()) == 1


@pytest.mark.parametrize(
    ("repo_id", "revision", "path"), [("other/gzip", "v2", "config.json"), ("org/copied", "main", "w.bin")]
)
def test_files_in_compressed_layers_are_listed_but_need_extract(hub: Serving, repo_id: str, revision: str, path: str):
    assert repo_id in [item["id"] for item in json.loads(hub.get("/api/models").body)]
    tree = json.loads(hub.get(f"/api/models/{repo_id}/tree/{revision}").body)
    assert path in [item["path"] for item in tree]
    answer = hub.get(f"/{repo_id}/resolve/{revision}/{path}")
    assert (answer.status, answer.headers["x-error-code"]) == (501, "NeedsExtract")
    assert "llmstack extract" in answer.headers["x-error-message"]


def test_pages_of_images_without_a_file_index(hub: Serving):
    plain, gzipped, copied = (hub.get(f"/{name}").body.decode() for name in ("other/plain", "other/gzip", "org/copied"))
    assert "/model.bin" in plain
    assert "from huggingface_hub" not in gzipped + copied
    for text, image in ((gzipped, "models:other--gzip--v2"), (copied, "models:org--copied")):
        assert "in compressed layers" in text
        assert "/resolve/" not in text
        assert f"{image} ./" in text


def test_a_path_of_30_000_directories_costs_neither_time_nor_memory(tmp_path: Path):
    deep = layers.tar(layers.file("REPO/" + "d/" * 30_000 + "f", b"x"))
    layers.image(tmp_path / "carried/models", deep, tag="other--deep")
    limit = layers.tar(layers.file("REPO/" + "d/" * 200 + "f", b"x"))
    layers.image(tmp_path / "carried/datasets", limit, tag="other--limit")
    with serving(tmp_path, f"oci:{tmp_path}/carried") as hub:
        before = memory(hub, "VmHWM")
        for target in ("/api/models/other/deep/tree/main?recursive=true", "/other/deep", "/api/models/other/deep"):
            answer = hub.get(target)
            assert (answer.status, answer.headers["x-error-code"]) == (502, "BadGateway")
            assert "the limit is" in answer.headers["x-error-message"]
        tree = json.loads(hub.get("/api/datasets/other/limit/tree/main?recursive=true").body)
        assert (len(tree), tree[-1]["path"]) == (201, "d/" * 200 + "f")
        assert memory(hub, "VmHWM") - before < 32 * MEGABYTE


def test_large_compressed_layers_are_not_read(tmp_path: Path):
    """The layer does not even exist: the size in the manifest decides."""
    layout = Layout(tmp_path / "carried/models")
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{'cd' * 32}"]}}).encode()
    layout.write_blob(lambda: [config])
    layer = Descriptor(LAYER_GZIP, Digest(f"sha256:{'ab' * 32}"), 100 * 1024 * 1024)
    manifest = Manifest(Descriptor(CONFIG, Digest.of(config), len(config)), (layer,))
    layout.put_manifest(manifest.to_raw(), "other--huge")
    with serving(tmp_path, f"oci:{tmp_path}/carried") as hub:
        assert [item["id"] for item in json.loads(hub.get("/api/models").body)] == ["other/huge"]
        for target in ("/other/huge/resolve/main/w.bin", "/api/models/other/huge/tree/main"):
            answer = hub.get(target)
            assert (answer.status, answer.headers["x-error-code"]) == (501, "NeedsExtract")
