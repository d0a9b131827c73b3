"""Images of earlier formats: they are read as before, and a ferry replaces them and reuses what is equal."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmstack.carried_image.file_index import FORMAT, BlobRange, FileIndex, IndexedFile
from llmstack.carried_image.image import open_image
from llmstack.carried_image.selection import NO_SELECTION
from llmstack.ferrying.earlier_images import EarlierImage, ReusableLayers
from llmstack.ferrying.layer_plan import Limits, plan
from llmstack.hf.snapshot import REPO_TYPES, HubFile, RepoType
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries
from llmstack.oci.spec import RawManifest
from tests.support.carried import LIMITS, carry
from tests.support.cli import run_llmstack
from tests.support.ferry import MiB, Port

FIXED = {"config.json": b"{}", "sub/a.txt": b"a" * 700, "model.bin": b"m" * 70_000, "big.bin": bytes(1_500_000)}
SPLITTING = replace(LIMITS, layer_size=1_000_000, split_large=True)
LARGE = os.urandom(17 * MiB)
FILES = {"config.json": b"{}", "sub/deep/vocab.txt": b"a\nb\n", "model.safetensors": LARGE}
GiB = 1024**3


@pytest.mark.parametrize(
    ("form", "limits", "digests"),
    [
        ("1", LIMITS, ["51559e081b0bd175", "36fefa2fa7ed700b", "b09884c0fc81e1cc", "2aee866066e07cb3"]),
        (
            "2",
            SPLITTING,
            ["9e33e6699041787f", "a84e4ab0b8defc09", "36fefa2fa7ed700b", "b09884c0fc81e1cc", "ae7cabb573d7d2a7"],
        ),
        ("3", LIMITS, ["8429997ad20cf859", "16aa95947dfd0d22", "12b6cfdfec3d685a", "5e0fcc4d98868ce5"]),
    ],
)
def test_the_layers_of_each_format_never_change(tmp_path: Path, form: str, limits: Limits, digests: list[str]):
    """Those of formats 1 and 2 are what releases 0.1 and 0.2 wrote: other tests use these images."""
    layout = Layout(tmp_path / "models")
    carry(layout, "org--model", FIXED, limits=limits, form=form)
    image = open_image(layout, "org--model")
    assert [layer.digest.hex[:16] for layer in image.layers] == digests


@pytest.mark.slow
@pytest.mark.parametrize("repo_type", REPO_TYPES)
@pytest.mark.parametrize(("form", "limits"), [("1", LIMITS), ("2", SPLITTING), (FORMAT, LIMITS), (FORMAT, SPLITTING)])
def test_all_formats_are_read_alike(tmp_path: Path, repo_type: RepoType, form: str, limits: Limits):
    layout = Layout(tmp_path / f"carried/{repo_type}s")
    carry(layout, "org--model", FIXED, repo_type=repo_type, limits=limits, form=form)
    source = ("org/model", "--type", repo_type, "--from", f"oci:{tmp_path}/carried")
    assert run_llmstack("extract", source[0], tmp_path / "out", *source[1:]).code == 0
    found = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*")}
    assert {path: file.read_bytes() for path, file in found.items() if file.is_file()} == FIXED
    verified = run_llmstack("verify", *source, "--json")
    assert (verified.code, verified.json["files"]) == (0, len(FIXED)), verified.stdout
    assert verified.json["format"] == form
    details = run_llmstack("inspect", *source)
    assert f"format:    {form}\n" in details.stdout
    [row] = run_llmstack("list", "--from", f"oci:{tmp_path}/carried", "--json").json
    assert (row["repo_id"], row["license"], row["error"]) == ("org/model", "mit", None)


def put(port: Port, tag: str, repo_type: RepoType = "model", **options: object) -> None:
    """Write an image of FILES in the registry as an earlier release wrote it."""
    with closing(Client()) as client:
        reference = Reference.parse(f"{port.space}/{repo_type}s")
        store = Registries(client, lambda _: None).repository(reference, write=True)
        carry(store, tag, FILES, repo_id="org/tiny", repo_type=repo_type, limits=Limits(), form="1", **options)


def fresh(port: Port, tmp_path: Path, *options: str) -> str:
    """Return the digest of the image in another destination."""
    [result] = port.results("org/tiny", *options, "--to", f"oci:{tmp_path}/fresh")
    return str(result["digest"])


def test_a_model_in_format_1_is_carried_again_and_the_reason_is_said(port: Port, tmp_path: Path):
    repo = port.hub.add_repo("org/tiny", FILES)
    put(port, "org--tiny", commit=repo.sha)
    planned = port.ferry("org/tiny", "--dry-run")
    size = sum(map(len, FILES.values()))
    note = "model org/tiny: 17.8 MB of unchanged files must be uploaded again, because the earlier image has format 1"
    assert note in planned.stderr
    assert "upload, stored in format 1 before" in planned.stdout
    [result] = port.results("org/tiny", "--dry-run")
    assert (result["status"], result["bytes_transferred"]) == ("planned", size)
    carried = port.ferry("org/tiny")
    assert note in carried.stderr
    again = port.ferry("org/tiny", "--json")
    assert again.json["results"][0]["status"] == "up-to-date"
    assert "format" not in again.stderr
    assert again.json["results"][0]["digest"] == fresh(port, tmp_path)
    assert port.files("org--tiny") == FILES
    assert port.inspect("org--tiny")["Labels"]["dev.llmstack.format"] == FORMAT


def test_a_dataset_in_format_1_gets_a_new_index_only(port: Port, tmp_path: Path):
    repo = port.hub.add_repo("org/tiny", FILES, repo_type="dataset")
    put(port, "org--tiny", "dataset", commit=repo.sha)
    run = port.ferry("org/tiny", "--type", "dataset", "--json")
    [result] = run.json["results"]
    assert (result["status"], result["bytes_transferred"]) == ("carried", 0)
    assert "again" not in run.stderr
    assert not port.hub.log.files(method=None)
    assert result["digest"] == fresh(port, tmp_path, "--type", "dataset")


@pytest.mark.parametrize("repo_type", REPO_TYPES)
def test_a_partial_image_of_format_1_is_resumed_only_if_its_layers_are_equal(
    port: Port, tmp_path: Path, repo_type: RepoType
):
    repo = port.hub.add_repo("org/tiny", FILES, repo_type=repo_type)
    put(port, "org--tiny--partial", repo_type, commit=repo.sha, incomplete=True)
    [result] = port.results("org/tiny", "--type", repo_type)
    assert result["bytes_reused"] == (0 if repo_type == "model" else sum(map(len, FILES.values())))
    assert port.tags(f"{repo_type}s") == ["org--tiny"]
    assert result["digest"] == fresh(port, tmp_path, "--type", repo_type)


def earlier(form: str, repo_type: RepoType, *files: IndexedFile) -> ReusableLayers:
    created = "2024-01-01T12:00:00Z"
    index = FileIndex("org/x", repo_type, "main", "c" * 40, created, None, False, NO_SELECTION, files, format=form)
    return ReusableLayers([EarlierImage(RawManifest("", b"{}"), index)])


@pytest.mark.parametrize("form", ["1", FORMAT])
@pytest.mark.parametrize("repo_type", REPO_TYPES)
@pytest.mark.parametrize("size", [8 * GiB - 1, 8 * GiB])
def test_layers_of_format_1_with_other_headers_are_not_reused(form: str, repo_type: RepoType, size: int):
    """The header of a file of 8 GiB has changed; else the layers of a dataset are the same."""
    oid = hashlib.sha256(b"x").hexdigest()
    [layer] = plan([HubFile("x", size, oid)], Limits(root="models" if repo_type == "model" else "REPO"))
    file = IndexedFile("x", size, oid, oid, (BlobRange(Digest.of(b"x"), layer.offsets[0], size),))
    reusable = earlier(form, repo_type, file)
    equal = form == FORMAT or (repo_type == "dataset" and size < 8 * GiB)
    assert reusable.find(layer) == ((file,) if equal else None)
    assert reusable.earlier_format(layer) == (None if form == FORMAT else "1")


@pytest.mark.parametrize("part", [8 * GiB - 512, 8 * GiB])
def test_parts_of_format_2_are_reused_unless_their_headers_differ(part: int):
    oid = hashlib.sha256(b"x").hexdigest()
    limits = Limits(layer_size=part + 2560, split_large=True)
    [split] = plan([HubFile("x", 2 * part, oid)], limits)
    [ranges] = split.file_ranges
    blobs = tuple(BlobRange(Digest.of(b"%d" % number), *span) for number, span in enumerate(ranges))
    file = IndexedFile("x", 2 * part, oid, oid, blobs)
    assert earlier("2", "model", file).find(split) == ((file,) if part < 8 * GiB else None)
