"""Files below a directory that is not trusted: no symbolic link is followed, and only regular files are read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError
from llmstack.oci.store import CHUNK

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a named pipe must not stop its reader.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RegularFiles:
    """Reads the files below `folder`. `name` and the `what` of each method name the object in errors."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def read(self, path: str, what: str, limit: int) -> bytes:
        """Return a small file; raises NotFoundError, IntegrityError if it is larger than `limit` bytes."""
        with self.open(path, what) as file, self.errors(what):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"{self.name}: {what}: larger than {limit:,} bytes")
        return data

    def size(self, path: str, what: str) -> int:
        """Return the size of a file; raises what `open` raises."""
        with self.open(path, what) as file:
            return os.fstat(file.fileno()).st_size

    def chunks(self, path: str, what: str, size: int, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield the bytes from `start` up to `stop` of a file; raises IntegrityError if its size is not `size`."""
        left = stop - start
        with self.open_sized(path, what, size) as file:
            with self.errors(what):
                file.seek(start)
            while left > 0:
                # Not around the yield, which raises errors of the consumer.
                with self.errors(what):
                    chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise IntegrityError(f"{self.name}: {what}: truncated")
                left -= len(chunk)
                yield chunk

    def open_sized(self, path: str, what: str, size: int) -> IO[bytes]:
        """Open a file as `open` does; raises IntegrityError if its size is not `size`."""
        file = self.open(path, what)
        if (actual := os.fstat(file.fileno()).st_size) != size:
            file.close()
            raise IntegrityError(f"{self.name}: {what}: has {actual} bytes, not {size}")
        return file

    def open(self, path: str, what: str) -> IO[bytes]:
        """Open a regular file without following links; raises NotFoundError, IntegrityError, UnavailableError."""
        *directories, name = path.split("/")
        with contextlib.ExitStack() as stack, self.errors(what):
            parent = os.open(self.folder, _DIRECTORY)
            stack.callback(os.close, parent)
            try:
                for directory in directories:
                    parent = os.open(directory, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                    stack.callback(os.close, parent)
                descriptor = os.open(name, _FILE, dir_fd=parent)
            except OSError as error:
                if error.errno not in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
                    raise
                raise self._irregular(what) from error
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise self._irregular(what)
            return os.fdopen(descriptor, "rb")

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn an OSError from reading into an LlmstackError."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.name}: {what}: not found") from error
        except OSError as error:
            raise UnavailableError(f"{self.name}: {what}: cannot be read: {error.strerror}") from error

    def _irregular(self, what: str) -> IntegrityError:
        return IntegrityError(f"{self.name}: {what}: is not a regular file of the layout")
