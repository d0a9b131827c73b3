"""What a disk refuses, in words that a person can act on."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from llmstack.errors import LlmstackError, UnavailableError, UsageError

_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into errors that a person can act on."""
    try:
        yield
    except OSError as error:
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: OSError) -> LlmstackError:
    what = f"writing to {path}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "free some space and run it again: what is there is kept and continued"
        return UnavailableError(f"{what}: the disk is full", hint=hint, side="destination")
    if error.errno in _PERMISSION:
        hint = "name a folder that you may write to"
        return UsageError(f"{what}: {error.strerror}", hint=hint, side="destination")
    if error.errno in {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}:
        hint = "something else is in its place, or the disk does not take the name"
        return UsageError(f"{what}: {error.strerror}", hint=hint, side="destination")
    return UnavailableError(f"{what}: {error.strerror or error}", side="destination")
