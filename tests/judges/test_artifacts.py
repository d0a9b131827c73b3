"""Current clients of registries pull model artifacts from the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.hub_server.conftest import IN_PARTS
from tests.judges.conftest import Judge
from tests.support.carried import carry
from tests.support.registry import Registry
from tests.support.serving import Serving, install, serving
from tests.support.weight_files import gguf

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]

WEIGHTS = os.urandom(3_000_017)
FILES = {
    "README.md": b"# Tiny",
    "config.json": b'{"model_type": "bert"}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    # The same bytes, and so the same blob.
    "copy/model.safetensors": WEIGHTS,
    "sub dir/a+b%2F\u00e9.json": b"[1]",
}
LLAMA = {"general.architecture": "llama"}
QUANTIZED = {
    "README.md": b"# GGUF",
    "m-Q4_K_M.gguf": gguf(LLAMA, {"w": [5000]}, seed=1),
    "m-Q8_0.gguf": gguf(LLAMA, {"w": [7000]}, seed=2),
    "mmproj-F16.gguf": gguf({"general.architecture": "clip"}, {"w": [900]}, seed=3),
    "s-F16-00001-of-00002.gguf": gguf(LLAMA, {"w": [800]}, seed=4),
    "s-F16-00002-of-00002.gguf": gguf(LLAMA, {"w": [800]}, seed=5),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub of a layout."""
    folder = tmp_path_factory.mktemp("artifacts")
    models, datasets = Layout(folder / "models"), Layout(folder / "datasets")
    carry(models, "Org--Tiny", FILES, repo_id="Org/Tiny")
    carry(models, "org--parts", {"w.bin": WEIGHTS}, repo_id="org/parts", limits=IN_PARTS)
    carry(models, "Org--GGUF", QUANTIZED, repo_id="Org/GGUF")
    carry(datasets, "org--set", {"data/train.csv": b"a\n"}, repo_id="org/set", repo_type="dataset")
    with serving(folder, f"oci:{folder}") as hub:
        yield hub


@pytest.fixture(scope="module")
def host(hub: Serving) -> str:
    """The hub as a registry."""
    return hub.url.removeprefix("http://")


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_oras_pulls_lists_and_copies(judge: Judge, host: str, shared: Path):
    judge.run("oras", "pull", "--plain-http", f"{host}/org/tiny:latest", "-o", shared / "tiny")
    assert read(shared / "tiny") == FILES
    judge.run("oras", "pull", "--plain-http", f"{host}/org/parts:main", "-o", shared / "parts")
    assert read(shared / "parts") == {"w.bin": WEIGHTS}
    judge.run("oras", "pull", "--plain-http", f"{host}/datasets/org/set:latest", "-o", shared / "set")
    assert read(shared / "set") == {"data/train.csv": b"a\n"}
    judge.run("oras", "pull", "--plain-http", f"{host}/org/gguf:Q8_0", "-o", shared / "q8")
    assert read(shared / "q8").keys() == {"README.md", "m-Q8_0.gguf", "mmproj-F16.gguf"}
    repos = judge.run("oras", "repo", "ls", "--plain-http", host).split()
    assert repos == ["datasets/org/set", "org/gguf", "org/parts", "org/tiny"]
    tags = judge.run("oras", "repo", "tags", "--plain-http", f"{host}/org/gguf").split()
    assert tags == ["F16", "Q4_K_M", "Q8_0", "latest", "main"]
    judge.run("oras", "discover", "--plain-http", f"{host}/org/tiny:latest")
    judge.run(
        "oras", "copy", "--from-plain-http", f"{host}/org/tiny:latest", "--to-oci-layout", f"{shared}/layout:tiny"
    )


def test_oras_shows_why_a_push_fails(judge: Judge, host: str, shared: Path):
    (shared / "file").write_bytes(b"1")
    command = ("oras", "push", "--plain-http", "--disable-path-validation", f"{host}/org/tiny:new", f"{shared}/file")
    with pytest.raises(AssertionError, match="this hub is read-only"):
        judge.run(*command)


def test_skopeo_copies_into_a_layout(judge: Judge, host: str, shared: Path):
    image = f"docker://{host}/org/tiny:latest"
    judge.run("skopeo", "copy", "--src-tls-verify=false", image, f"oci:{shared}/layout:tiny")
    raw = json.loads(judge.run("skopeo", "inspect", "--raw", "--tls-verify=false", image))
    stored = {path.name for path in (shared / "layout/blobs/sha256").iterdir()}
    assert {layer["digest"][7:] for layer in raw["layers"]} < stored
    tags = json.loads(judge.run("skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/org/tiny"))["Tags"]
    assert tags == ["latest", "main"]


def test_crane_reads_manifests_and_blobs(judge: Judge, host: str, shared: Path):
    value = json.loads(judge.run("crane", "manifest", "--insecure", f"{host}/org/tiny:latest"))
    digest = next(layer["digest"] for layer in value["layers"] if layer["size"] == len(WEIGHTS))
    script = f"crane blob --insecure {host}/org/tiny@{digest} > {shared}/blob"
    judge.run("sh", "-c", script)
    assert (shared / "blob").read_bytes() == WEIGHTS
    assert judge.run("crane", "ls", "--insecure", f"{host}/org/tiny").split() == ["latest", "main"]


def test_podman_pulls_an_artifact(judge: Judge, host: str, shared: Path):
    podman = ("podman", f"--root={shared}/storage", f"--runroot={shared}/run", "--storage-driver=vfs")
    judge.run(*podman, "artifact", "pull", "-q", "--tls-verify=false", f"{host}/org/gguf:Q4_K_M")
    (shared / "out").mkdir()
    judge.run(*podman, "artifact", "extract", f"{host}/org/gguf:Q4_K_M", shared / "out")
    assert read(shared / "out").keys() == {"README.md", "m-Q4_K_M.gguf", "mmproj-F16.gguf"}
    assert (shared / "out/m-Q4_K_M.gguf").read_bytes() == QUANTIZED["m-Q4_K_M.gguf"]


def test_clients_log_in_with_the_token(judge: Judge, registry: Registry, shared: Path):
    carry(Layout(shared / "models"), "Org--Tiny", FILES, repo_id="Org/Tiny")
    (shared / "token").write_text("secret")
    with serving(shared, f"oci:{shared}", "--token-file", shared / "token") as hub:
        host = hub.url.removeprefix("http://")
        login = ("login", "--username=me", "--password=secret", host)
        judge.run("oras", *login, "--plain-http", f"--registry-config={shared}/oras.json")
        pull = ("oras", "pull", "--plain-http", f"--registry-config={shared}/oras.json")
        judge.run(*pull, f"{host}/org/tiny:latest", "-o", shared / "tiny")
        assert read(shared / "tiny") == FILES
        judge.run("skopeo", *login, "--tls-verify=false", f"--authfile={shared}/skopeo.json")
        copy = f"{registry.namespace()}/tiny:latest"
        skopeo = ("skopeo", "copy", f"--authfile={shared}/skopeo.json", "--src-tls-verify=false")
        judge.run(*skopeo, "--dest-tls-verify=false", f"docker://{host}/org/tiny:latest", f"docker://{copy}")
        judge.run("oras", "pull", "--plain-http", copy, "-o", shared / "copy")
        assert read(shared / "copy") == FILES


@pytest.mark.parametrize(
    ("model", "files"),
    [
        ("Org/GGUF", ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]),
        ("Org/GGUF:q8_0", ["m-Q8_0.gguf", "mmproj-F16.gguf"]),
        ("Org/GGUF:F16", ["s-F16-00001-of-00002.gguf", "s-F16-00002-of-00002.gguf"]),
        # RamaLama takes no subdirectories.
        ("Org/Tiny", ["model.safetensors", "config.json", "empty.txt"]),
    ],
)
def test_ramalama_pulls_from_the_hub(hub: Serving, tmp_path: Path, model: str, files: list[str]):
    packages = install("ramalama", "ramalama==0.25.0")
    command = [sys.executable, packages / "bin/ramalama", "--nocontainer", "--store", tmp_path, "pull", f"hf://{model}"]
    env = {**os.environ, "PYTHONPATH": str(packages), "HF_ENDPOINT": hub.url, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    [snapshot] = tmp_path.glob("store/huggingface/Org/*/snapshots/*")
    assert {name: (snapshot / name).read_bytes() for name in files} == {
        name: (FILES | QUANTIZED)[name] for name in files
    }


READER = """
import json, sys
from ramalama.transports.oci.spec import Manifest
for layer in Manifest.from_dict(json.load(sys.stdin)).layers:
    print(layer.filepath(), layer.file_metadata().size)
"""


def test_ramalamas_reader_of_model_packs_accepts_the_manifest(hub: Serving):
    packages = install("ramalama", "ramalama==0.25.0")
    manifest = hub.get("/v2/org/tiny/manifests/latest").body
    env = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run([sys.executable, "-c", READER], input=manifest, env=env, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"{path} {len(FILES[path])}" for path in sorted(FILES)]


@pytest.mark.parametrize(
    ("repo", "files"),
    [
        ("Org/GGUF:Q8_0", ["m-Q8_0.gguf", "mmproj-F16.gguf"]),
        ("Org/GGUF", ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]),
        ("Org/GGUF:F16", ["mmproj-F16.gguf", "s-F16-00001-of-00002.gguf", "s-F16-00002-of-00002.gguf"]),
    ],
)
def test_llama_cpp_downloads_with_hf(hub: Serving, shared: Path, repo: str, files: list[str]):
    """These weights are no model, so llama.cpp stops after the download."""
    client = Judge({"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(shared), "LLAMA_CACHE": str(shared)})
    client.run("llama-cli", "-hf", repo, "--single-turn", "--prompt", "x", check=False)
    downloaded = {path.name: path.read_bytes() for path in shared.rglob("*.gguf")}
    assert downloaded == {name: QUANTIZED[name] for name in files}
