"""A file system that is soon full."""

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
    as_root = [] if os.geteuid() == 0 else [need("sudo", "sudo"), "-n"]
    folder.mkdir()
    options = f"size={size},mode=1777"
    subprocess.run([*as_root, need("mount", "mount"), "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*as_root, need("umount", "mount"), "--lazy", folder], check=True)
