"""Media that fail: real file systems on loop devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.errors import LlmstackError, UsageError
from tests.bundles.support import FILES, Gap, mount_image
from tests.support.disk import as_root
from tests.support.process import need

pytestmark = pytest.mark.system
MEDIUM = 8_000_000


@pytest.fixture
def medium(gap: Gap) -> Iterator[Path]:
    """An ext2 disk with a bundle, mounted read-only; its image is `disk.img`."""
    gap.carry()
    gap.save("b")
    image, folder = gap.folder / "disk.img", gap.folder / "disk"
    with image.open("wb") as file:
        file.truncate(MEDIUM)
    shutil.copytree(gap.folder / "b", gap.folder / "content/b")
    format_disk = [need("mke2fs", "e2fsprogs"), "-q", "-t", "ext2", "-d", str(gap.folder / "content"), str(image)]
    subprocess.run(format_disk, check=True)
    mount_image(image, folder, "ro")
    try:
        yield folder
    finally:
        subprocess.run([*as_root(), need("umount", "mount"), "--lazy", str(folder)], check=False)


def test_read_only_media(gap: Gap, medium: Path):
    assert gap.load(medium).status == "loaded"
    assert gap.far_files() == FILES
    with pytest.raises(UsageError, match="Read-only file system"):
        gap.session.save((), medium / "c", source=gap.near)


def test_bad_sectors(gap: Gap, medium: Path):
    """The device ends before the last blob: the kernel returns EIO, as for a bad sector."""
    blobs = sorted((medium / "b/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    image = gap.folder / "disk.img"
    whole = image.read_bytes()
    position = whole.find(FILES["a.safetensors"][-4096:-1])
    assert position > 0
    os.truncate(image, position)
    for blob in blobs:
        # What the page cache has is forgotten.
        descriptor = os.open(blob, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    with pytest.raises(LlmstackError, match="Input/output error") as raised:
        gap.load("disk")
    assert raised.value.side == "source"
    assert gap.far_tags() == {}
    image.write_bytes(whole)
    assert gap.load("disk").status == "loaded"
    assert gap.far_files() == FILES
