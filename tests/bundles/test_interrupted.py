"""A save that breaks off continues; what it left behind never becomes part of a bundle unverified."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.layout import Layout
from tests.bundles.support import FILES, Gap, checksums_are_right

pytestmark = pytest.mark.slow

# Saves until `limit` bytes of blobs were read from the source.
BROKEN = """
import sys
from llmstack.oci.layout import Layout
from llmstack.errors import UnavailableError
from llmstack.session import Session
left = int(sys.argv[1])
read_blob = Layout.read_blob
def limited(self, *arguments, **options):
    global left
    for chunk in read_blob(self, *arguments, **options):
        if left < len(chunk):
            yield chunk[:left]
            raise UnavailableError("the source went away")
        left -= len(chunk)
        yield chunk
Layout.read_blob = limited
size = sys.argv[2] if len(sys.argv) > 2 else None
try:
    Session.from_settings(jobs=1).save((), "b", source="oci:near", volume_size=size)
except UnavailableError:
    sys.exit(9)
"""


def broken_save(gap: Gap, limit: int, *size: str) -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN, str(limit), *size], cwd=gap.folder, check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("size", [(), ("1MB",)], ids=["whole", "volumes"])
@pytest.mark.parametrize("limit", [0, 100, 400_000, 1_600_000])
def test_the_next_run_resumes(gap: Gap, limit: int, size):
    gap.carry()
    broken_save(gap, limit, *size)
    with pytest.raises(NotFoundError, match=r"not complete|no bundle found|still needs"):
        gap.load("b")
    resumed = gap.save("b", volume_size=size[0] if size else None)
    assert resumed.status == "saved"
    assert not list((gap.folder / "b").rglob("*.partial"))
    assert not (gap.folder / "b/save.json").exists()
    assert all(checksums_are_right(path.parent) for path in (gap.folder / "b").rglob("SHA256SUMS"))
    gap.load("b")
    assert gap.far_files() == FILES


def test_a_resumed_run_reads_only_the_rest_of_a_blob(gap: Gap):
    gap.carry()
    broken_save(gap, 1_200_000)
    partial = max((gap.folder / "b").rglob("*.partial"), key=lambda path: path.stat().st_size)
    assert partial.stat().st_size > 1_000_000
    # Damage in what is there already would change the digest: the run notices it, and starts the blob again.
    data = bytearray(partial.read_bytes())
    data[5000] ^= 1
    partial.write_bytes(data)
    assert gap.save("b").status == "saved"
    assert checksums_are_right(gap.folder / "b")


def test_the_bundle_stays_the_same_when_tags_move_meanwhile(gap: Gap):
    gap.carry()
    broken_save(gap, 100)
    begun = json.loads((gap.folder / "b/save.json").read_text())["contents"]["images"][0]["digest"]
    gap.carry(files={"config.json": b"new"}, commit="2" * 40)
    gap.carry("org/other")
    saved = gap.save("b")
    assert [image.digest for image in saved.images] == [begun]
    gap.load("b")
    assert gap.far_files() == FILES


def test_another_command_line_does_not_continue_a_bundle(gap: Gap):
    gap.carry()
    broken_save(gap, 100)
    with pytest.raises(UsageError, match="another command line"):
        gap.save("b", "org/model")


def test_the_source_lost_an_image_meanwhile(gap: Gap):
    gap.carry()
    gap.carry("org/other", {"x": b"x"})
    broken_save(gap, 100)
    near = Layout(gap.folder / "near/models")
    near.delete_manifest(near.manifest("org--model").digest, "org--model")
    with pytest.raises(NotFoundError, match="models:org--model"):
        gap.save("b")


def test_a_damaged_source_is_noticed_before_the_bundle_is_complete(gap: Gap):
    gap.carry()
    blobs = sorted((gap.folder / "near/models/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blobs[-1].read_bytes())
    data[99] ^= 1
    blobs[-1].write_bytes(data)
    for size in (None, "1MB"):
        name = f"b-{size}"
        with pytest.raises(IntegrityError, match="does not match its digest"):
            gap.save(name, volume_size=size)
        assert not list((gap.folder / name).rglob(f"{blobs[-1].name}"))
        # At most the volumes before the one with the end of the blob are complete.
        assert len(list((gap.folder / name).rglob("SHA256SUMS"))) <= 1


def test_a_full_disk_and_more_space(gap: Gap, tiny_disk: Path):
    gap.carry()
    with pytest.raises(UnavailableError, match="the disk has"):
        gap.session.save((), tiny_disk / "b", source=gap.near)
    # In volumes, the first fits: it is moved away, and the run goes on.
    with pytest.raises(UnavailableError, match="disk is full"):
        gap.session.save((), tiny_disk / "b", source=gap.near, volume_size="1MB")
    assert checksums_are_right(tiny_disk / "b/volume-001")
    assert not (tiny_disk / "b/volume-002/SHA256SUMS").exists()
