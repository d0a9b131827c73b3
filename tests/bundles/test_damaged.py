"""Damaged and hostile bundles: nothing wrong gets a tag, and each has its error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UsageError
from llmstack.oci.reference import Digest
from tests.bundles.support import FILES, Gap, rewrite


@pytest.fixture
def bundle(gap: Gap) -> Path:
    """An unsplit bundle."""
    gap.carry()
    gap.save("b")
    return gap.folder / "b"


def largest(volume: Path) -> Path:
    return max((volume / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def replace_by_link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "copy")
    path.unlink()
    path.symlink_to("../copy")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, replace_by_link, replace_by_pipe])
def test_a_damaged_blob(gap: Gap, bundle: Path, damage: Callable[[Path], None]):
    blob = largest(bundle)
    damage(blob)
    with pytest.raises((IntegrityError, NotFoundError), match=blob.name):
        gap.load("b")
    assert gap.far_tags() == {}


@pytest.mark.parametrize("name", ["bundle.json", "SHA256SUMS", "index.json", "oci-layout"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, replace_by_link, replace_by_pipe])
def test_a_damaged_small_file(gap: Gap, bundle: Path, name: str, damage: Callable[[Path], None]):
    damage(bundle / name)
    with pytest.raises(LlmstackError, match=f"{name}|no bundle found|OCI layout") as caught:
        gap.load("b")
    assert caught.value.exit_code in {2, 3, 5}
    assert not (gap.folder / "far").exists()


def test_what_is_whole_counts_after_a_damage_is_repaired(gap: Gap):
    gap.carry()
    gap.save("b", volume_size="1MB")
    part = next((gap.folder / "b/volume-002/blobs/sha256").glob("*.part00001"))
    flip(part)
    with pytest.raises(IntegrityError, match=f"volume-002: blobs/sha256/{part.name}: does not match its hash"):
        gap.load("b")
    assert gap.far_tags() == {}
    flip(part)
    # Of three volumes, one comes again.
    gap.try_load("b/volume-001")
    gap.try_load("b/volume-003")
    assert gap.load("b/volume-002").status == "loaded"
    assert gap.far_files() == FILES


def test_a_damaged_volume_does_not_hold_up_the_others(gap: Gap):
    gap.carry()
    gap.save("b", volume_size="1MB")
    gap.carry("org/other")
    gap.save("c", "org/other")
    truncate(largest(gap.folder / "b/volume-002"))
    results, errors = gap.try_load("b", "c")
    assert [result.status for result in results] == ["failed", "incomplete", "loaded"]
    assert results[1].wanted == (2,)
    assert isinstance(errors[0], IntegrityError)
    assert isinstance(errors[1], NotFoundError)


def test_a_bundle_of_a_newer_version(gap: Gap, bundle: Path):
    rewrite(bundle, lambda document: document.update(format=2))
    with pytest.raises(UsageError, match="has format 2"):
        gap.load("b")


def set_image(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["contents"]["images"][0].update({key: value})


def set_piece(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["pieces"][-1].update({key: value})


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a repository that climbs": set_image("repository", "../../etc"),
    "an absolute repository": set_image("repository", "/etc"),
    "a repository in capitals": set_image("repository", "Models"),
    "the repository of the records": set_image("repository", "bundles"),
    "a tag that is none": set_image("tag", "a/../b"),
    "a tag that is a list": set_image("tag", ["a"]),
    "an image without a digest": set_image("digest", None),
    "an image twice": lambda document: document["contents"]["images"].append(document["contents"]["images"][0]),
    "images that are no list": lambda document: document["contents"].update(images={}),
    "a deletion that climbs": lambda document: document["contents"].update(deletions=["../x:y"]),
    "contents that are a list": lambda document: document.update(contents=[]),
    "pieces that are an object": lambda document: document.update(pieces={}),
    "a piece twice": lambda document: document["pieces"].append(document["pieces"][0]),
    "a piece of another size": set_piece("size", 1),
    "a huge piece": set_piece("size", 2**62),
    "a negative piece": set_piece("start", -1),
    "a piece that ends before its start": lambda document: document["pieces"][-1].update(start=9, stop=3, part=0),
    "a piece with a hole before it": lambda document: document["pieces"][-1].update(start=9, part=0),
    "a piece that is not there": set_piece("digest", "sha256:" + "0" * 64),
    "volume 0": lambda document: document.update(volume=0),
    "volume 2 of 1": lambda document: document.update(volume=2),
    "a volume number that is a string": lambda document: document.update(volume="1"),
    "a ledger number that is a string": lambda document: document["contents"].update(number="1"),
    "a digest of another algorithm": set_image("digest", "sha512:" + "0" * 128),
    "an image that the bundle lacks": set_image("digest", "sha256:" + "0" * 64),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in HOSTILE.items()])
def test_a_hostile_document(gap: Gap, bundle: Path, change: Callable[[dict[str, Any]], None]):
    rewrite(bundle, change)
    with pytest.raises((IntegrityError, NotFoundError)) as caught:
        gap.load("b")
    assert "Traceback" not in str(caught.value)
    assert not (gap.folder / "far").exists()
    assert sorted(path.name for path in gap.folder.iterdir()) == ["b", "near"]


def test_an_id_that_does_not_match_the_contents(gap: Gap, bundle: Path):
    def change(document: dict[str, Any]) -> None:
        document["contents"]["created"] = "2001"

    rewrite(bundle, change)
    document = json.loads((bundle / "bundle.json").read_text())
    document["id"] = "sha256:" + "0" * 64
    text = json.dumps(document)
    sums = (bundle / "SHA256SUMS").read_text()

    old = Digest.of((bundle / "bundle.json").read_bytes()).hex
    (bundle / "bundle.json").write_text(text)
    (bundle / "SHA256SUMS").write_text(sums.replace(old, Digest.of(text.encode()).hex))
    with pytest.raises(IntegrityError, match="do not match the id"):
        gap.load("b")


def test_a_document_that_lies_about_a_size(gap: Gap, bundle: Path):
    blob = largest(bundle)
    with blob.open("ab") as file:
        file.write(b"more")

    def change(document: dict[str, Any]) -> None:
        for piece in document["pieces"]:
            if piece["digest"].endswith(blob.name):
                piece["size"] += 4

    rewrite(bundle, change)
    with pytest.raises(IntegrityError, match="does not match its hash"):
        gap.load("b")
    assert gap.far_tags() == {}


def test_links_in_the_path_of_a_volume_are_not_followed(gap: Gap, bundle: Path):
    (bundle / "blobs").rename(gap.folder / "elsewhere")
    (bundle / "blobs").symlink_to(gap.folder / "elsewhere")
    with pytest.raises(IntegrityError, match="not a regular file"):
        gap.load("b")


def test_a_directory_link_below_a_disk_is_not_searched(gap: Gap, bundle: Path):
    (gap.folder / "disk").mkdir()
    (gap.folder / "disk/link").symlink_to(bundle)
    with pytest.raises(NotFoundError, match="no bundle found"):
        gap.load("disk")


def test_a_claim_to_be_the_same_volume_with_other_blobs(gap: Gap, bundle: Path):
    shutil.copytree(bundle, gap.folder / "c")
    rewrite(gap.folder / "c", lambda document: document["pieces"].pop())
    results, errors = gap.try_load("b", "c")
    assert [result.status for result in results] == ["failed", "loaded"]
    assert "claims to be the same volume" in str(errors[0])
