"""File systems of their own: one that is soon full, and one that takes `a` and `A` for the same name."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.process import need


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes on `folder`; whoever is not root needs sudo for it."""
    mount = [need("mount", "mount"), "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(folder)]
    with _mounted(folder, mount):
        yield folder


@contextlib.contextmanager
def folding_disk(folder: Path) -> Iterator[Path]:
    """Mount an NTFS as Windows sees it on `folder`."""
    disk = folder.with_suffix(".img")
    with disk.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run([need("mkntfs", "ntfs-3g"), "-q", "-F", disk], check=True, capture_output=True)
    options = "ignore_case,streams_interface=none,allow_other,umask=000"
    with _mounted(folder, [need("lowntfs-3g", "ntfs-3g"), "-o", options, str(disk), str(folder)]):
        yield folder


@contextlib.contextmanager
def _mounted(folder: Path, mount: list[str]) -> Iterator[None]:
    as_root = [] if os.geteuid() == 0 else [need("sudo", "sudo"), "-n"]
    folder.mkdir()
    subprocess.run([*as_root, *mount], check=True)
    try:
        yield
    finally:
        subprocess.run([*as_root, need("umount", "mount"), "--lazy", folder], check=True)
