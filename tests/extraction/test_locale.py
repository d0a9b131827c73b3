"""File names are written in UTF-8, whatever encoding the locale has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmstack.carried_image.naming import tag_for
from llmstack.oci.layout import Layout
from tests.support.carried import COMMIT, carry
from tests.support.cli import run_llmstack
from tests.support.layers import file, hardlink, image, symlink, tar

# Without UTF-8 mode and locale coercion (PEP 538, PEP 540), Python's file system encoding is ASCII.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "模型/ünïcode.txt"


def test_a_carried_image(tmp_path: Path):
    tag = tag_for("org/model", "zweig/für")
    carry(Layout(tmp_path / "carried/models"), tag, {NAME: b"text"}, revision="zweig/für")
    for layout, path in (("dir", NAME), ("hf-cache", f"models--org--model/snapshots/{COMMIT}/{NAME}")):
        out = tmp_path / layout
        for _ in range(2):
            image_name = f"oci:{tmp_path}/carried/models:{tag}"
            run = run_llmstack("extract", image_name, out, "--layout", layout, "--json", env=ASCII)
            assert run.code == 0, run.stderr
            assert (out / path).read_bytes() == b"text"
        assert run.json["bytes_reused"] == 4
    assert (tmp_path / "hf-cache/models--org--model/refs/zweig/für").read_text() == COMMIT


def test_another_image(tmp_path: Path):
    """Names in other encodings keep their bytes."""
    latin = "REPO/für".encode("latin-1").decode("utf-8", "surrogateescape")
    layer = tar(file(f"REPO/{NAME}", b"text"), file(latin, b"latin"), hardlink("REPO/b", latin), symlink("REPO/ä", "b"))
    run = run_llmstack("extract", image(tmp_path / "image", layer), tmp_path / "out", env=ASCII)
    assert run.code == 0, run.stderr
    assert (tmp_path / "out" / NAME).read_bytes() == b"text"
    names = sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir())
    assert names == [b"b", b"f\xfcr", "ä".encode(), "模型".encode()]


@pytest.mark.parametrize("obstacle", ["模型", NAME])
def test_an_obstacle_is_named(tmp_path: Path, obstacle: str):
    carry(Layout(tmp_path / "carried/models"), "org--model", {NAME: b"text"})
    out = tmp_path / "out"
    if obstacle == NAME:
        (out / NAME).mkdir(parents=True)
    else:
        out.mkdir()
        (out / obstacle).write_bytes(b"")
    run = run_llmstack("extract", f"oci:{tmp_path}/carried/models:org--model", out, env=ASCII)
    assert run.code == 2, run.stderr
    assert "Traceback" not in run.stderr
