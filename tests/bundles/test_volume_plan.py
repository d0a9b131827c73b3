"""Cutting blobs into volumes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.bundles.document import Contents, Order, Piece, Volume
from llmstack.bundles.volume_plan import MAX_FAT_FILE, parse_size, plan_volumes
from llmstack.bundles.volume_writer import SUMS
from llmstack.errors import UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor

CONTENTS = Contents(Order("2024-01-01T00:00:00.000000Z"), ())


def blob(number: int, size: int) -> Descriptor:
    return Descriptor("", Digest.of(b"%d" % number), size)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("4GB", 4 * 10**9), ("25 GB", 25 * 10**9), ("1.5GB", 1_500_000_000), ("1TB", 10**12)],
)
def test_units_are_decimal(text, size):
    assert parse_size(text) == size


def test_names_of_media_are_sizes():
    assert parse_size("fat32") == 2**32 - 1
    assert 4_600_000_000 < parse_size("DVD") < 4_700_372_992


@pytest.mark.parametrize("text", ["", "64", "MB", "64MiB", "-1GB", "900kB", "1e9", "\uff19GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.lists(st.integers(0, 9_000_000), max_size=30), st.integers(1_000_000, 5_000_000))
def test_volumes_have_every_byte_once_and_fit(sizes, volume_size):
    blobs = [blob(number, size) for number, size in enumerate(sizes)]
    volumes = plan_volumes(CONTENTS, blobs, volume_size)
    found: dict[Digest, list[Piece]] = {}
    for volume in volumes:
        lines = sum(len(f"{'0' * 64}  {piece.path}\n") for piece in volume.pieces)
        overhead = len(volume.to_bytes()) + lines + 3 * len(f"{'0' * 64}  {SUMS}\n")
        # index.json and oci-layout of an empty bundle.
        assert sum(piece.length for piece in volume.pieces) + overhead + 200 <= volume_size
        assert Volume.parse(volume.to_bytes(), "x") == volume
        for piece in volume.pieces:
            found.setdefault(piece.digest, []).append(piece)
    assert set(found) == {each.digest for each in blobs}
    for each in blobs:
        pieces = found[each.digest]
        assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
        assert pieces[-1].stop == each.size
        assert sorted(piece.path for piece in pieces) == [piece.path for piece in pieces]


def test_no_file_of_a_split_bundle_is_too_large_for_fat32():
    volumes = plan_volumes(CONTENTS, [blob(1, 30 * 10**9)], parse_size("25GB"))
    assert len(volumes) == 2
    assert max(piece.length for volume in volumes for piece in volume.pieces) == MAX_FAT_FILE


def test_without_a_size_there_is_one_volume_of_whole_blobs():
    [volume] = plan_volumes(CONTENTS, [blob(1, 0), blob(2, 10**12)], None)
    assert all(piece.is_whole for piece in volume.pieces)
