"""Writing to disks: errors with a cause and a hint, files that are complete or absent, locks on directories."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llmstack.errors import LlmstackError, UnavailableError, UsageError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# flock(2) on file systems without locks.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})
_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_INVALID_PATH = frozenset(
    {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
)


def exists(path: Path) -> bool:
    """Tell whether a path exists; false for names that no file system allows, and for paths without permission."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from writing to `path` into an LlmstackError."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> LlmstackError:
    what = f"writing to {path}"
    if error.errno in _PERMISSION:
        hint = "choose a directory that you can write to"
        return UsageError(f"{what}: {error.strerror}", hint=hint, side="destination")
    if error.errno in _INVALID_PATH:
        hint = "another file or directory occupies the path, or the file system does not allow the name"
        return UsageError(f"{what}: {error.strerror}", hint=hint, side="destination")
    unavailable = disk_unavailable(what, error)
    unavailable.side = "destination"
    return unavailable


def is_disk_full(error: OSError) -> bool:
    """Tell whether a write failed because the disk, or the user's quota, is full."""
    return error.errno in _DISK_FULL


def disk_unavailable(
    what: str, error: OSError, hint: str = "free some space, then rerun to resume"
) -> UnavailableError:
    """Return the error for a failed write; `hint` is for a full disk."""
    if is_disk_full(error):
        return UnavailableError(f"{what}: the disk is full", hint=hint)
    return UnavailableError(f"{what}: {error.strerror or error}")


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on a directory, without a lock file; raises OSError, UnavailableError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file exclusively; raises OSError, UnavailableError where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        hint = "mount it with locks (Lustre: -o flock), or write to another disk and copy the result"
        raise UnavailableError(f"locking {path}: the file system has no file locks", hint=hint) from error


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file that readers see old or new, never in between; raises OSError.

    Keeps the mode of the old file, unless `mode` is given. Only for one process at a time: hold `lock_directory`.
    """
    partial = path.with_name(f".{path.name}.part")
    if mode is None and path.exists():
        mode = path.stat().st_mode & 0o7777
    # A killed process may have left one, and another user may have put a link there.
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            file.write(data)
            publish(file, partial, path, mode)
    finally:
        partial.unlink(missing_ok=True)


def publish(file: IO[bytes], partial: Path, target: Path, mode: int | None = None) -> None:
    """Rename a written file to its final name, so that after a power loss it is complete or absent; raises OSError."""
    file.flush()
    if mode is not None:
        os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())
    partial.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
