"""The oid of a file names its blob in a Hugging Face cache, so no image may put other bytes under it."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from tests.extraction.support import git_oid, put_with_oids, run, sha256

BLOBS = "models--org--model/blobs"


CONTENT = st.sampled_from([b"", b"one", b"two", b"three" * 50_000])
OIDS = st.sampled_from(["git", "sha256", "git of one", "sha256 of one", "zeros"])
IMAGES = st.lists(st.dictionaries(st.sampled_from("abc"), st.tuples(CONTENT, OIDS), min_size=1), min_size=1, max_size=3)


def oid_of(data: bytes, kind: str) -> str:
    return {
        "git": git_oid(data),
        "sha256": sha256(data),
        "git of one": git_oid(b"one"),
        "sha256 of one": sha256(b"one"),
        "zeros": "0" * 40,
    }[kind]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(IMAGES)
def test_each_blob_in_a_cache_is_named_by_its_bytes(images: list[dict[str, tuple[bytes, str]]]):
    """For any claims and any order of extraction; images with correct claims succeed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        for number, image in enumerate(images):
            files = {path: data for path, (data, _) in image.items()}
            oids = {path: oid_of(data, kind) for path, (data, kind) in image.items()}
            put_with_oids(Path(folder, str(number)), files, oids)
            true = all(oids[path] in {git_oid(data), sha256(data)} for path, data in files.items())
            with contextlib.nullcontext() if true else pytest.raises(IntegrityError):
                run("org/model", out, source=f"oci:{folder}/{number}", layout="hf-cache")
            for blob in (out / BLOBS).glob("*") if (out / BLOBS).exists() else ():
                data = blob.read_bytes()
                assert blob.name in {git_oid(data), sha256(data)}


@pytest.mark.parametrize("oid", [git_oid(b"good"), sha256(b"good")], ids=["git", "sha256"])
def test_a_second_revision_does_not_overwrite_a_verified_blob(tmp_path: Path, oid: str):
    put_with_oids(tmp_path / "one", {"config.json": b"good"}, {"config.json": oid})
    put_with_oids(tmp_path / "two", {"config.json": b"evil"}, {"config.json": oid})
    run("org/model", tmp_path / "out", source=f"oci:{tmp_path}/one", layout="hf-cache")
    with pytest.raises(IntegrityError, match="oid"):
        run("org/model", tmp_path / "out", source=f"oci:{tmp_path}/two", layout="hf-cache")
    assert (tmp_path / "out" / BLOBS / oid).read_bytes() == b"good"
