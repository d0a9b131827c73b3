"""Bundles in volumes: any order, one at a time, and what is still needed."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.errors import NotFoundError, UsageError
from tests.bundles.support import FILES, Gap, checksums_are_right


@pytest.fixture
def volumes(gap: Gap) -> list[Path]:
    """A bundle of three volumes."""
    gap.carry()
    saved = gap.save("b", volume_size="1MB")
    assert saved.volumes == 3
    return sorted((gap.folder / "b").iterdir())


def test_volumes_fit_and_can_be_checked_without_llmstack(volumes: list[Path]):
    assert [volume.name for volume in volumes] == ["volume-001", "volume-002", "volume-003"]
    for volume in volumes:
        assert sum(path.stat().st_size for path in volume.rglob("*") if path.is_file()) <= 1_000_000
        assert checksums_are_right(volume)


def test_all_volumes_at_once(gap: Gap, volumes: list[Path]):
    result = gap.load(*volumes)
    assert result.status == "loaded"
    assert gap.far_files() == FILES
    # Nothing was staged.
    assert not list((gap.folder / "far/bundles/blobs/sha256").glob("*")) or len(gap.far_tags()) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_one_at_a_time_in_any_order(gap: Gap, volumes: list[Path], order):
    wanted = {1, 2, 3}
    for position, number in enumerate(order, 1):
        wanted -= {number + 1}
        results, errors = gap.try_load(volumes[number])
        if position < 3:
            assert (results[0].status, set(results[0].wanted)) == ("incomplete", wanted)
            assert errors[0].exit_code == 3
            assert gap.far_tags() == {}
    assert (results[0].status, errors) == ("loaded", [])
    assert gap.far_files() == FILES
    # What was kept until the bundle was complete is gone: the record of tags, its manifest, and its empty config stay.
    assert len(list((gap.folder / "far/bundles/blobs/sha256").iterdir())) == 3


def test_the_same_volume_twice_is_no_progress(gap: Gap, volumes: list[Path]):
    for _ in range(2):
        [result], _ = gap.try_load(volumes[1])
        assert result.wanted == (1, 3)


def test_volumes_may_have_any_folder_and_the_directory_above_finds_them(gap: Gap, volumes: list[Path]):
    disk = gap.folder / "disk"
    for number, volume in enumerate(volumes):
        shutil.copytree(volume, disk / f"{'cba'[number]}/bundle part")
    (disk / "System Volume Information").mkdir()
    assert gap.load("disk").status == "loaded"
    assert gap.far_files() == FILES


def test_two_volumes_that_are_swapped_are_told_apart_by_their_document(gap: Gap, volumes: list[Path]):
    volumes[0].rename(gap.folder / "x")
    volumes[1].rename(volumes[0])
    (gap.folder / "x").rename(volumes[1])
    gap.load("b")
    assert gap.far_files() == FILES


def test_volumes_of_two_bundles_do_not_mix(gap: Gap, volumes: list[Path]):
    gap.carry(files={**FILES, "a.safetensors": bytes(1_500_000)}, commit="2" * 40)
    gap.save("c", volume_size="1MB")
    shutil.rmtree(volumes[1])
    shutil.copytree(gap.folder / "c/volume-002", volumes[1])
    results, errors = gap.try_load("b")
    assert {(result.status, result.wanted) for result in results} == {("incomplete", (2,)), ("incomplete", (1, 3))}
    assert len(errors) == 2
    assert gap.far_tags() == {}


def test_a_file_can_be_taken_out_by_hand(gap: Gap, volumes: list[Path]):
    """As the documentation says: cat the parts of a layer, and unpack it with tar."""
    hexes = {path.name.partition(".")[0] for volume in volumes for path in (volume / "blobs/sha256").glob("*.part*")}
    for digest in hexes:
        command = f"cat volume-*/blobs/sha256/{digest}* | tar -xf - -C out"
        (gap.folder / "b/out").mkdir(exist_ok=True)
        subprocess.run(["bash", "-c", command], cwd=gap.folder / "b", check=True)
    found = {path.name: path.read_bytes() for path in (gap.folder / "b/out").rglob("*") if path.is_file()}
    assert found
    assert found.items() <= FILES.items()


def test_too_many_images_for_the_volumes(gap: Gap):
    for number in range(3):
        gap.carry(f"org/model-{number}", {"x": b"%d" % number})
    with pytest.raises(UsageError, match="must be at least 1MB"):
        gap.save("b", volume_size="900kB")


@pytest.mark.slow
def test_volumes_can_be_moved_away_while_the_save_goes_on(gap: Gap):
    """A disk that holds one volume only: the save fails there, and the next run writes the next volume."""
    gap.carry()
    moved = gap.folder / "moved"
    moved.mkdir()
    # Fails after each volume that is complete.
    code = f"""
import sys
from pathlib import Path
from llmstack.bundles import unfinished
from llmstack.session import Session
write = unfinished.Unfinished.write
def stop(self, directory):
    write(self, directory)
    if self.done:
        sys.exit(9)
unfinished.Unfinished.write = stop
Session.from_settings().save((), {str(gap.folder / "b")!r}, source="oci:near", volume_size="1MB")
"""
    for number in (1, 2, 3):
        done = subprocess.run([sys.executable, "-c", code], cwd=gap.folder, check=False)
        assert done.returncode == 9
        shutil.move(gap.folder / f"b/volume-00{number}", moved / f"{number}")
    assert gap.save("b", volume_size="1MB").status == "saved"
    assert list((gap.folder / "b").iterdir()) == []
    assert all(checksums_are_right(volume) for volume in moved.iterdir())
    assert gap.load("moved").status == "loaded"
    assert gap.far_files() == FILES


def test_a_directory_without_a_bundle_is_an_error(gap: Gap):
    (gap.folder / "empty").mkdir()
    with pytest.raises(NotFoundError, match="no bundle found"):
        gap.load("empty")
    with pytest.raises(NotFoundError, match="not found"):
        gap.load("absent")
    (gap.folder / "file").touch()
    with pytest.raises(UsageError, match="is not a directory"):
        gap.load("file")
    gap.carry()
    with pytest.raises(UsageError, match="OCI layout, not a bundle"):
        gap.load("near/models")
