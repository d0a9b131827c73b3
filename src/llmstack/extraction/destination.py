"""Write files into the destination directory: atomically, without following links, by one process at a time.

A file is written as a partial file in a work directory inside the destination, then renamed to its final path. The
next run resumes partial files. The work directory is removed when the run succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from llmstack.carried_image.file_index import IndexedFile
from llmstack.disk import NO_LOCKS, disk_errors
from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.extraction.partial_file import PartialFile, read_chunks

WORK_DIRECTORY = ".llmstack-partial"
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_LINK = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})


class Destination:
    """A directory locked for writing, as a context manager. Safe in threads."""

    def __init__(self, directory: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.directory = directory
        self._warn = warn
        self._root = -1
        self._work = -1
        self._lock = -1
        # The owner and the mode that files created here get.
        self._created = (-1, -1)
        # The directory that each thread wrote into last. Consecutive files are often in the same one.
        self._last: dict[int, tuple[bytes, int]] = {}

    def __enter__(self) -> Destination:
        """Create and lock the directory. Raises UnavailableError if another process holds the lock."""
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.ExitStack() as opened:
                opened.callback(os.close, self._root)
                self._take_lock()
                opened.callback(os.close, self._work)
                opened.callback(os.close, self._lock)
                self._check_owner()
                opened.pop_all()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the directory. The work directory stays only if it holds a partial file to resume."""
        with contextlib.suppress(OSError), os.scandir(self._work) as entries:
            for entry in entries:
                if entry.name != _LOCK and (error_type is None or entry.stat(follow_symlinks=False).st_size == 0):
                    os.unlink(entry.name, dir_fd=self._work)
        with contextlib.suppress(OSError):
            os.unlink(_LOCK, dir_fd=self._work)
        # NFS and FUSE rename a removed file that is still open, and its directory cannot be removed until it is closed.
        os.close(self._lock)
        with contextlib.suppress(OSError):
            os.rmdir(WORK_DIRECTORY, dir_fd=self._root)
        for descriptor in (*(last for _, last in self._last.values()), self._work, self._root):
            os.close(descriptor)

    def require_space(self, size: int) -> None:
        """Raise UnavailableError if `size` more bytes do not fit."""
        disk = os.fstatvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        # Some FUSE file systems do not report their size: all fields are zero.
        if disk.f_blocks and size > free:
            raise UnavailableError(
                f"writing to {self.directory}: {size:,} bytes are needed, {free:,} are free",
                hint="free some space, or choose a directory on a larger disk",
                side="destination",
            )

    def has_file(self, path: str, file: IndexedFile, count_bytes: Callable[[int], None]) -> bool:
        """Tell whether a file exists with the size and the hashes of the file index.

        `count_bytes` gets the size of each chunk read, and the negative total if a hash differs.
        """
        with disk_errors(self.directory / path), contextlib.ExitStack() as stack:
            try:
                parent, name = stack.enter_context(self._existing_parent(path))
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
            except UsageError:
                return False
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
                    return False
                raise
            stack.callback(os.close, descriptor)
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode) or info.st_size != file.size:
                return False
            content, read = file.new_hash(), 0
            for chunk in read_chunks(descriptor):
                content.update(chunk)
                read += len(chunk)
                count_bytes(len(chunk))
            if file.mismatch(content) is None:
                return True
            count_bytes(-read)
            return False

    def check_path(self, path: str) -> None:
        """Raise UsageError if a directory occupies the file's path, or a file or link occupies a directory's."""
        with disk_errors(self.directory / path), contextlib.suppress(FileNotFoundError):
            with self._existing_parent(path) as (parent, name):
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def check_symlinks(self) -> None:
        """Raise UsageError if the file system does not support symbolic links."""
        name = _partial_name("link")
        with disk_errors(self.directory):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)
            try:
                os.symlink(name, name, dir_fd=self._work)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                raise UsageError(
                    f"writing to {self.directory}: the file system does not support symbolic links, "
                    "which a Hugging Face cache needs",
                    hint="use --layout dir, or choose a directory on another disk",
                    side="destination",
                ) from error
            os.unlink(name, dir_fd=self._work)

    def partial_size(self, key: str) -> int:
        """Return the size of a partial file, 0 if it does not exist."""
        try:
            return os.stat(_partial_name(key), dir_fd=self._work, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def partial(self, key: str, file: IndexedFile | None = None) -> Iterator[PartialFile]:
        """Open the partial file for `key`, new or as an earlier run left it. It stays until it is published."""
        name = _partial_name(key)
        with disk_errors(self.directory):
            descriptor = self._open_own(name)
            try:
                yield PartialFile(descriptor, name, file)
            finally:
                os.close(descriptor)

    def _open_own(self, name: str) -> int:
        """Open a file of the work directory. One that another user or another program left there is replaced."""
        with contextlib.suppress(OSError):
            # O_NONBLOCK: opening a FIFO must not wait for a reader.
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(name, flags, dir_fd=self._work)
            info = os.fstat(descriptor)
            if (info.st_uid, info.st_mode) == self._created and info.st_nlink == 1:
                return descriptor
            os.close(descriptor)
        return self._create(name)

    def _create(self, name: str) -> int:
        """Create a file in the work directory, in place of another one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._work)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o666, dir_fd=self._work)

    def _check_owner(self) -> None:
        """Raise UsageError if another user created the work directory, and could replace files in it."""
        name = _partial_name("owner")
        descriptor = self._create(name)
        info = os.fstat(descriptor)
        os.close(descriptor)
        os.unlink(name, dir_fd=self._work)
        self._created = (info.st_uid, info.st_mode)
        if os.fstat(self._work).st_uid not in {info.st_uid, os.fstat(self._root).st_uid}:
            raise UsageError(
                f"writing to {self.directory}: {WORK_DIRECTORY} belongs to another user",
                hint=f"rm -r {self.directory / WORK_DIRECTORY}",
                side="destination",
            )

    def discard(self, partial: PartialFile) -> None:
        """Remove a partial file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial.name, dir_fd=self._work)

    def publish(self, partial: PartialFile, path: str) -> None:
        """Rename a complete partial file to its final path."""
        with disk_errors(self.directory / path):
            parent, name = self._parent(path)
            os.replace(partial.name, name, src_dir_fd=self._work, dst_dir_fd=parent)

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write a complete file and publish it."""
        with self.partial(path) as partial:
            partial.restart()
            for chunk in chunks:
                partial.write(chunk)
            self.publish(partial, path)

    def symlink(self, target: str, path: str) -> None:
        """Create a symbolic link; replace an existing link or file."""
        encoded = _encode(target)
        with disk_errors(self.directory / path):
            parent, last = self._parent(path)
            with contextlib.suppress(FileExistsError):
                os.symlink(encoded, last, dir_fd=parent)
                return
            with contextlib.suppress(OSError):
                if os.readlink(last, dir_fd=parent) == encoded:
                    return
            name = _partial_name(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)
            os.symlink(encoded, name, dir_fd=self._work)
            os.replace(name, last, src_dir_fd=self._work, dst_dir_fd=parent)

    def hard_link(self, existing: str, path: str) -> None:
        """Make `path` a hard link to a file that this run wrote, or a copy where hard links are not supported."""
        name = _partial_name(path)
        with disk_errors(self.directory / path), self._existing_parent(existing) as (source, source_name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)
            try:
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=self._work, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                self._copy(source, source_name, path)
                return
            parent, last = self._parent(path)
            os.replace(name, last, src_dir_fd=self._work, dst_dir_fd=parent)
            # Renaming a file to another name of the same inode does nothing (POSIX rename).
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)

    def ignores_case(self) -> bool:
        """Tell whether the file system treats `a` and `A` as the same name."""
        with self.partial("case") as partial:
            try:
                os.stat(partial.name.upper(), dir_fd=self._work)
            except FileNotFoundError:
                return False
            finally:
                self.discard(partial)
        return True

    def _copy(self, source: int, name: bytes, path: str) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            self.require_space(os.fstat(descriptor).st_size)
            self.write(path, read_chunks(descriptor))
        finally:
            os.close(descriptor)

    def _parent(self, path: str) -> tuple[int, bytes]:
        """Return a path's directory, created if missing, and its last component.

        The directory stays open until this thread asks for another one.
        """
        directories, name = _split(path)
        directory, thread = b"/".join(directories), threading.get_ident()
        last = self._last.get(thread)
        if last is None or last[0] != directory:
            opened = self._walk(directories, path, create=True)
            if last is not None:
                os.close(last[1])
            last = self._last[thread] = (directory, opened)
        return last[1], name

    @contextlib.contextmanager
    def _existing_parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        directories, name = _split(path)
        descriptor = self._walk(directories, path, create=False)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _walk(self, directories: list[bytes], path: str, *, create: bool) -> int:
        """Open a directory, starting at the root, without following links."""
        descriptor = os.dup(self._root)
        try:
            for directory in directories:
                inner = self._enter(descriptor, directory, path, create=create)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _enter(self, parent: int, directory: bytes, path: str, *, create: bool) -> int:
        try:
            return os.open(directory, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, dir_fd=parent)
            return os.open(directory, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                name = directory.decode(errors="replace")
                raise UsageError(
                    f"writing {path!r} into {self.directory}: {name!r} exists and is not a directory",
                    hint="move it away, or choose another directory; extract does not write through links",
                    side="destination",
                ) from error
            raise

    def _take_lock(self) -> None:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(WORK_DIRECTORY, dir_fd=self._root)
            # A FileNotFoundError means that another process has just finished and removed the directory: try again.
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
                work = os.open(WORK_DIRECTORY, _DIRECTORY, dir_fd=self._root)
                opened.callback(os.close, work)
                lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=work)
                opened.callback(os.close, lock)
                self._lock_file(lock)
                now = os.stat(f"{WORK_DIRECTORY}/{_LOCK}", dir_fd=self._root, follow_symlinks=False)
                if os.path.samestat(now, os.fstat(lock)):
                    opened.pop_all()
                    self._work, self._lock = work, lock
                    return

    def _lock_file(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(
                f"writing to {self.directory}: another extract is running there",
                hint="wait until it ends, or choose another directory",
                side="destination",
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._warn(f"{self.directory}: the file system has no locks; do not run another extract there now")


def _split(path: str) -> tuple[list[bytes], bytes]:
    names = path.split("/")
    if names[0] == WORK_DIRECTORY or any(name in {"", ".", ".."} for name in names):
        raise IntegrityError(f"{path!r}: not a valid destination path")
    *directories, name = map(_encode, names)
    return directories, name


def _encode(path: str) -> bytes:
    """Return a path in UTF-8, the encoding of images and repos, whatever Python's file system encoding is."""
    return path.encode("utf-8", "surrogateescape")


def _partial_name(key: str) -> str:
    """Return the name of a partial file: the same length for any path."""
    return hashlib.sha256(_encode(key)).hexdigest()[:40] + ".part"
