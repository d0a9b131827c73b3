"""Cut the blobs of a bundle into volumes; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmstack.bundles.document import Contents, Piece, Volume
from llmstack.errors import UsageError
from llmstack.oci.layout import MAX_LAYOUT_INDEX_SIZE
from llmstack.oci.spec import Descriptor

MIN_VOLUME = 1_000_000
# FAT32 stores files of up to 4 GiB - 1 byte. No part of a blob is larger, so that a volume fits on every file system.
MAX_FAT_FILE = 2**32 - 1
# A DVD has 4,700,372,992 bytes; the rest is for the file system.
_SIZES = {"fat32": MAX_FAT_FILE, "dvd": 4_690_000_000}
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(kB|KB|MB|GB|TB)")
# Bytes of a blob's lines in bundle.json and SHA256SUMS, at most.
_PER_PIECE = 400
_PER_VOLUME = 2_000


def parse_size(text: str) -> int:
    """Return the bytes of a volume size: `64MB`, `25GB`, `fat32`, `dvd`; raises UsageError."""
    if size := _SIZES.get(text.lower()):
        return size
    match = _SIZE.fullmatch(text)
    if not match:
        raise UsageError(
            f"volume size {text!r}: must be a size such as 64MB or 25GB, or fat32 or dvd", hint="units are decimal"
        )
    size = int(float(match[1]) * _UNITS[match[2].replace("KB", "kB")])
    if size < MIN_VOLUME:
        raise UsageError(f"volume size {text}: must be at least 1MB")
    return size


def plan_volumes(contents: Contents, blobs: Sequence[Descriptor], volume_size: int | None) -> list[Volume]:
    """Return the volumes of a bundle: one without a volume size, else as many as its blobs need, in their order."""
    if volume_size is None:
        return [Volume(contents, 1, 1, tuple(Piece(blob.digest, blob.size, 0, blob.size) for blob in blobs))]
    # index.json of the first volume has less about each image.
    document = len(Volume(contents, 1, 1, ()).to_bytes())
    room = volume_size - _PER_VOLUME - 2 * document
    if room < volume_size // 2 or document > MAX_LAYOUT_INDEX_SIZE:
        raise UsageError(
            f"the list of {len(contents.images)} images does not fit into a volume of {volume_size:,} bytes",
            hint="choose larger volumes",
        )
    groups = _fill(blobs, room)
    return [Volume(contents, number, len(groups), tuple(group)) for number, group in enumerate(groups, 1)]


def _fill(blobs: Sequence[Descriptor], room: int) -> list[list[Piece]]:
    volumes: list[list[Piece]] = [[]]
    # A smaller rest of a volume stays empty.
    least, left = min(1_000_000, room // 4), room
    for blob in blobs:
        start = number = 0
        while start < blob.size or number == 0:
            rest = blob.size - start
            if rest + _PER_PIECE > left and left < least + _PER_PIECE:
                volumes.append([])
                left = room
            length = min(rest, left - _PER_PIECE, MAX_FAT_FILE)
            volumes[-1].append(Piece(blob.digest, blob.size, start, start + length, number))
            left -= length + _PER_PIECE
            start, number = start + length, number + 1
    return volumes
