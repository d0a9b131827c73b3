"""A near and a far registry that share nothing but directories; the command line, and other tools."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from llmstack.net import Client
from tests.bundles.support import FILES, checksums_are_right, sign
from tests.oci.repositories import open_repository
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.process import need
from tests.support.registry import Registry

CHANGED = {**FILES, "b.safetensors": random.Random(9).randbytes(700_000)}


@pytest.fixture
def near(registry: Registry) -> str:
    return registry.namespace()


@pytest.fixture
def far(far_registry: Registry) -> str:
    return far_registry.namespace()


def put(namespace: str, files: dict[str, bytes], name: str = "models", tag: str = "org--model", **options) -> None:
    carry(open_repository(Client(), f"{namespace}/{name}"), tag, files, **options)


def test_three_bundles_with_deltas_and_signatures(near: str, far: str, far_registry: Registry, tmp_path: Path):
    put(near, FILES)
    put(near, {"train.parquet": bytes(9_000)}, "datasets", repo_type="dataset")
    put(near, {"wheel": b"w"}, "pip-offline", "latest", repo_id="any/image")
    repository = open_repository(Client(), f"{near}/models")
    sign(repository, "org--model")
    saved = run_llmstack(
        "save", "--all", "--from", near, "--to", "b1", "--ledger", "ledger.json", "--json", cwd=tmp_path
    )
    assert saved.code == 0, saved.stderr
    assert [image["image"].partition("@")[0] for image in saved.json["images"]] == [
        "datasets:org--model",
        "models:org--model",
        "models",
        "pip-offline:latest",
    ]
    assert checksums_are_right(tmp_path / "b1")
    put(near, CHANGED, commit="2" * 40)
    second = run_llmstack(
        "save", "org/model", "--from", near, "--to", "b2", "--ledger", "ledger.json", "--since", "--volume-size", "1MB",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert second.json["bytes_written"] < 720_000
    sign(repository, "org--model", b"{}")
    third = run_llmstack(
        "save", "--all", "--from", near, "--to", "b3", "--ledger", "ledger.json", "--since", cwd=tmp_path
    )
    assert third.code == 0, third.stderr
    assert "number 3" in third.stdout
    (tmp_path / "disk").mkdir()
    for name in ("b1", "b2", "b3"):
        shutil.move(tmp_path / name, tmp_path / "disk" / name)
    loaded = run_llmstack("load", "disk", "--to", far, "--json", cwd=tmp_path)
    assert loaded.code == 0, loaded.stderr
    assert [(result["number"], result["status"]) for result in loaded.json["results"]] == [
        (1, "loaded"),
        (2, "loaded"),
        (3, "loaded"),
    ]
    far_models = open_repository(Client(), f"{far}/models")
    image = far_models.manifest("org--model").digest
    # distribution 2.8 has no API for referrers: the index under the tag is written by the client.
    assert len(far_models.referrers(image)) == 1
    assert f"sha256-{image.hex}" in far_models.tags()
    extracted = run_llmstack("extract", "org/model", "out", "--from", far, cwd=tmp_path)
    assert extracted.code == 0, extracted.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == CHANGED
    assert run_llmstack("verify", "org/model", "--from", far, "--type", "dataset").code == 0
    listed = run_llmstack("list", "--from", far, "--json").json
    assert {entry["error"] for entry in listed} == {None}
    far_registry.served()
    again = run_llmstack("load", "disk", "--to", far, "--json", cwd=tmp_path)
    assert {result["status"] for result in again.json["results"]} == {"up-to-date"}
    assert {request.method for request in far_registry.served()} <= {"GET", "HEAD"}


def test_only_what_the_target_lacks_is_uploaded(near: str, far: str, far_registry: Registry, tmp_path: Path):
    put(near, FILES)
    put(far, FILES)
    put(near, CHANGED, commit="2" * 40)
    have = run_llmstack("inventory", "--from", far)
    (tmp_path / "have.json").write_text(have.stdout)
    saved = run_llmstack("save", "--all", "--from", near, "--to", "b", "--have", "have.json", cwd=tmp_path)
    assert saved.code == 0, saved.stderr
    far_registry.served()
    loaded = run_llmstack("load", "b", "--to", far, cwd=tmp_path)
    assert loaded.code == 0, loaded.stderr
    uploads = [request for request in far_registry.served() if request.method == "PATCH"]
    # The file, the file index, a config for each platform; the config and the content of load's record.
    assert len(uploads) == 6


def test_volumes_one_at_a_time_into_a_registry(near: str, far: str, far_registry: Registry, tmp_path: Path):
    put(near, FILES)
    run_llmstack("save", "--all", "--from", near, "--to", "b", "--volume-size", "1MB", cwd=tmp_path)
    for number, code in ((3, 3), (1, 3), (2, 0)):
        run = run_llmstack("load", f"b/volume-00{number}", "--to", far, "--json", cwd=tmp_path)
        assert run.code == code, run.stderr
    assert "still needs" not in run.stderr
    far_registry.served()
    assert run_llmstack("verify", "org/model", "--from", far).code == 0
    assert open_repository(Client(), f"{far}/bundles").tags() == ["loaded"]


def test_skopeo_reads_an_unsplit_bundle(near: str, tmp_path: Path):
    put(near, FILES)
    put(near, {"wheel": b"w"}, "pip-offline", "latest", repo_id="any/image")
    run_llmstack("save", "--all", "--from", near, "--to", "b", cwd=tmp_path)
    for name in ("org--model", "pip-offline/latest"):
        command = [need("skopeo", "skopeo"), "copy", "--quiet", f"oci:{tmp_path}/b:{name}", f"dir:{tmp_path}/out"]
        subprocess.run(command, check=True)


def test_a_refused_delta_leaves_the_list_of_missing_blobs(near: str, far: str, tmp_path: Path):
    put(near, FILES)
    run_llmstack("save", "--all", "--from", near, "--to", "b1", "--ledger", "l.json", cwd=tmp_path)
    put(near, CHANGED, commit="2" * 40)
    run_llmstack("save", "--all", "--from", near, "--to", "b2", "--ledger", "l.json", "--since", cwd=tmp_path)
    refused = run_llmstack("load", "b2", "--to", far, "--missing", "missing.json", "--json", cwd=tmp_path)
    assert refused.code == 3
    assert "lacks 2 blobs that it presupposes" in refused.stderr
    assert "llmstack save --missing missing.json" in refused.stderr
    missing = [blob["digest"] for blob in json.loads((tmp_path / "missing.json").read_text())["blobs"]]
    assert refused.json["results"][0]["missing"] == missing
    assert open_repository(Client(), f"{far}/models").tags() == []
    run_llmstack("save", "--from", near, "--to", "b3", "--missing", "missing.json", cwd=tmp_path)
    loaded = run_llmstack("load", "b3", "b2", "--to", far, cwd=tmp_path)
    assert loaded.code == 0, loaded.stderr
    assert run_llmstack("verify", "org/model", "--from", far).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("save", "--to", "b"), "name the images to save"),
        (("save", "x/y", "--all", "--to", "b"), "name the images to save"),
        (("save", "--all", "--to", "b"), "no source namespace"),
        (("load", "b"), "no destination namespace"),
        (("save", "--all", "--from", "docker-daemon:", "--to", "b"), "name them"),
        (("save", "--all", "--from", "oci:near", "--to", "b", "--volume-size", "7"), "must be a size"),
    ],
)
def test_errors_of_usage(arguments, words, tmp_path: Path, registry: Registry):
    del registry
    run = run_llmstack(*arguments, cwd=tmp_path)
    assert run.code == 2
    assert words in run.stderr
    assert "Traceback" not in run.stderr
