"""Mounted file systems for tests: small, without a size, case-insensitive, or with a power failure."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.process import START_TIMEOUT, RigError, need


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes on `folder`; needs root or sudo."""
    mount = [need("mount", "mount"), "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(folder)]
    with _mounted(folder, mount):
        yield folder


@contextlib.contextmanager
def unsized_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system that reports a size of zero on `folder`."""
    with _mounted(folder, [need("mount", "mount"), "-t", "ramfs", "-o", "mode=1777", "ramfs", str(folder)]):
        yield folder


@contextlib.contextmanager
def folding_disk(folder: Path) -> Iterator[Path]:
    """Mount a case-insensitive NTFS on `folder`."""
    disk = folder.with_suffix(".img")
    with disk.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run([need("mkntfs", "ntfs-3g"), "-q", "-F", disk], check=True, capture_output=True)
    options = "ignore_case,streams_interface=none,allow_other,umask=000"
    with _mounted(folder, [need("lowntfs-3g", "ntfs-3g"), "-o", options, str(disk), str(folder)]):
        yield folder


# Filters of system calls (linux/seccomp.h, linux/filter.h). symlinkat(2) and symlink(2) fail with EPERM.
_NO_LINKS = """
numbers = {"x86_64": (266, 88), "aarch64": (36,)}[platform.machine()]
jumps = [(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
steps = [(0x20, 0, 0, 0), *jumps, (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]
"""
# pread64(2) at offset 1 MiB fails with EIO.
_BAD_SECTOR = """
number = {"x86_64": 17, "aarch64": 67}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 40), (0x15, 0, 1, 1 << 20), (0x06, 0, 0, 0x00050005),
         (0x06, 0, 0, 0x7FFF0000)]
"""
_FILTERED = """
import ctypes, os, platform, struct, sys
%s
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""


def without_links(command: list[str]) -> list[str]:
    """Return the command with a filter that refuses symbolic links, as FAT does.

    Not every kernel has FAT, and ntfs-3g supports links.
    """
    return [sys.executable, "-c", _FILTERED % _NO_LINKS, *command]


def with_bad_sector(command: list[str]) -> list[str]:
    """Return the command with a filter that lets it read no file at an offset of 1 MiB, as on a broken disk."""
    return [sys.executable, "-c", _FILTERED % _BAD_SECTOR, *command]


class FragileDisk:
    """An ext4 with a power failure: data that the kernel has not written by then is lost.

    Names are written all the time, the content of files much later, as on a machine where other programs sync: a file
    can exist after the failure, and be empty. The kernel's protection (auto_da_alloc) is off.
    """

    # EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (linux/fs/ext4/ioctl.h), as in xfstests.
    _SHUTDOWN = "import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, b'\\2\\0\\0\\0')"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")
        self._stop = threading.Event()
        self._other = threading.Thread(target=self._write_names)

    def __enter__(self) -> FragileDisk:
        with self._image.open("wb") as file:
            file.truncate(96 * 1024 * 1024)
        owner = f"root_owner={os.getuid()}:{os.getgid()}"
        subprocess.run([need("mkfs.ext4", "e2fsprogs"), "-q", "-F", "-E", owner, self._image], check=True)
        self.folder.mkdir()
        self._mount()
        self._other.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._other.join()
        subprocess.run([*as_root(), need("umount", "mount"), "--lazy", self.folder], check=True)

    def fail(self) -> None:
        """Let all further reads and writes fail with EIO."""
        subprocess.run([*as_root(), sys.executable, "-c", self._SHUTDOWN, self.folder], check=True)

    def lose_power(self, *processes: subprocess.Popen[str]) -> None:
        """Fail, kill the processes that use the disk, and mount it again."""
        self.fail()
        for process in processes:
            process.kill()
            process.wait()
        self._other.join()
        subprocess.run([*as_root(), need("umount", "mount"), self.folder], check=True)
        self._wait_until_gone()
        self._mount()

    def flush(self) -> None:
        """Write all data to the disk."""
        subprocess.run(["sync", "--file-system", self.folder], check=True)

    def _wait_until_gone(self) -> None:
        # A container that starts has a copy of all mounts for a moment. Mounting before its end gives the failed disk.
        find = [*as_root(), need("losetup", "mount"), "--associated", str(self._image)]
        deadline = time.monotonic() + START_TIMEOUT
        while subprocess.run(find, check=True, capture_output=True).stdout:
            if time.monotonic() > deadline:
                raise RigError(f"{self._image}: still in use by a loop device")
            time.sleep(0.02)

    def _write_names(self) -> None:
        # fsync of any file commits the journal, which has all names, but not the data of other files. It fails after
        # the power failure, which ends the thread.
        with contextlib.suppress(OSError), (self.folder / ".other").open("wb") as other:
            while not self._stop.wait(0.01):
                other.write(b".")
                other.flush()
                os.fsync(other.fileno())

    def _mount(self) -> None:
        options = "loop,data=ordered,noauto_da_alloc"
        subprocess.run([*as_root(), need("mount", "mount"), "-o", options, self._image, self.folder], check=True)


@contextlib.contextmanager
def _mounted(folder: Path, mount: list[str]) -> Iterator[None]:
    folder.mkdir()
    subprocess.run([*as_root(), *mount], check=True)
    try:
        yield
    finally:
        subprocess.run([*as_root(), need("umount", "mount"), "--lazy", folder], check=True)


def as_root() -> list[str]:
    """Return the prefix of a command that needs root."""
    return [] if os.geteuid() == 0 else [need("sudo", "sudo"), "-n"]
