"""The folder that files are written into: never through a link, never half, and by one process at a time.

A file is written under a name of its own in a work folder inside the destination and gets its place by a rename. What
a broken run leaves there is continued by the next one. The work folder goes away when all is done.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from llmstack.disk import NO_LOCKS, disk_errors
from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.oci.store import CHUNK

WORK_FOLDER = ".llmstack-partial"
_LOCK = "lock"
# Linux caches a larger write in one larger piece of memory, and where memory is fragmented, as it is after much was
# downloaded, it defragments some first for pieces beyond this (PAGE_ALLOC_COSTLY_ORDER): measured, twice the time.
_WRITE = 32 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_LINK = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})


class Part:
    """A file being written: hashed on the way, whole only once `Destination.place` has given it its name."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self.size = 0
        self._sha256 = hashlib.sha256()

    def resume(self, count_bytes: Callable[[int], None]) -> None:
        """Hash what an earlier run left, and go on after it; `count_bytes` hears how many bytes were read."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        for chunk in _chunks(self._descriptor):
            self._sha256.update(chunk)
            self.size += len(chunk)
            count_bytes(len(chunk))

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.size, self._sha256 = 0, hashlib.sha256()

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes."""
        self._sha256.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left[:_WRITE]) :]

    @property
    def sha256(self) -> str:
        """The sha256 of all that was written."""
        return self._sha256.hexdigest()


class Destination:
    """One folder, held for writing as a context; safe in threads."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._warn = warn
        self._root = -1
        self._work = -1
        self._lock = -1
        # The folder that each thread wrote into last: neighbours in a repo are neighbours in time.
        self._last: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> Destination:
        """Make the folder and take its lock; raises UnavailableError if another process holds it."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._take_lock()
            except BaseException:
                os.close(self._root)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder; the work folder stays only where there is something in it to continue."""
        with contextlib.suppress(OSError), os.scandir(self._work) as entries:
            for entry in entries:
                if entry.name != _LOCK and (kind is None or entry.stat(follow_symlinks=False).st_size == 0):
                    os.unlink(entry.name, dir_fd=self._work)
        with contextlib.suppress(OSError):
            os.unlink(_LOCK, dir_fd=self._work)
        # NFS and FUSE keep a file that is open under another name until it is closed, and the folder with it.
        os.close(self._lock)
        with contextlib.suppress(OSError):
            os.rmdir(WORK_FOLDER, dir_fd=self._root)
        for descriptor in (*(last for _, last in self._last.values()), self._work, self._root):
            os.close(descriptor)

    def require(self, size: int) -> None:
        """Raise UnavailableError if `size` more bytes do not fit."""
        disk = os.fstatvfs(self._root)
        free = disk.f_bavail * disk.f_frsize
        # Some FUSE disks do not tell their size: all is zero then, and that is not to say that they are full.
        if disk.f_blocks and size > free:
            raise UnavailableError(
                f"writing to {self.folder}: {size:,} bytes are needed, {free:,} are free",
                hint="free some space, or name a folder on a larger disk",
                side="destination",
            )

    def holds(self, path: str, size: int, sha256: str, count_bytes: Callable[[int], None]) -> bool:
        """Tell whether a file is there, whole; `count_bytes` gets the bytes read, negative if they were in vain."""
        with disk_errors(self.folder / path), contextlib.ExitStack() as stack:
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
            if not stat.S_ISREG(info.st_mode) or info.st_size != size:
                return False
            digest, seen = hashlib.sha256(), 0
            for chunk in _chunks(descriptor):
                digest.update(chunk)
                seen += len(chunk)
                count_bytes(len(chunk))
            if digest.hexdigest() == sha256:
                return True
            count_bytes(-seen)
            return False

    def check(self, path: str) -> None:
        """Raise UsageError if something that no file can take the place of is in a file's way."""
        with disk_errors(self.folder / path), contextlib.suppress(FileNotFoundError):
            with self._existing_parent(path) as (parent, name):
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def check_links(self) -> None:
        """Raise UsageError if the disk has no symbolic links."""
        name = _part_name("link")
        with disk_errors(self.folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)
            try:
                os.symlink(name, name, dir_fd=self._work)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                raise UsageError(
                    f"writing to {self.folder}: the disk has no symbolic links, which a Hugging Face cache needs",
                    hint="use --layout dir, or name a folder on another disk",
                    side="destination",
                ) from error
            os.unlink(name, dir_fd=self._work)

    def partial(self, key: str) -> int:
        """Return how many bytes of a part are there already."""
        try:
            return os.stat(_part_name(key), dir_fd=self._work, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def part(self, key: str) -> Iterator[Part]:
        """Open the part that `key` names, empty or as an earlier run left it; what is written to it stays."""
        name = _part_name(key)
        with disk_errors(self.folder):
            descriptor = os.open(
                name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode=0o666, dir_fd=self._work
            )
            try:
                yield Part(descriptor, name)
            finally:
                os.close(descriptor)

    def discard(self, part: Part) -> None:
        """Remove a part whose bytes are wrong."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part.name, dir_fd=self._work)

    def place(self, part: Part, path: str) -> None:
        """Give a part that is whole its place."""
        with disk_errors(self.folder / path):
            parent, name = self._parent(path)
            os.replace(part.name, name, src_dir_fd=self._work, dst_dir_fd=parent)

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write a file whole."""
        with self.part(path) as part:
            part.restart()
            for chunk in chunks:
                part.write(chunk)
            self.place(part, path)

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link, in the place of whatever link or file is there."""
        with disk_errors(self.folder / path):
            parent, last = self._parent(path)
            with contextlib.suppress(FileExistsError):
                os.symlink(target, last, dir_fd=parent)
                return
            with contextlib.suppress(OSError):
                if os.readlink(last, dir_fd=parent) == target:
                    return
            name = _part_name(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)
            os.symlink(target, name, dir_fd=self._work)
            os.replace(name, last, src_dir_fd=self._work, dst_dir_fd=parent)

    def twin(self, existing: str, path: str) -> None:
        """Make `path` the same file as one that this run has written; a copy where the disk cannot do that."""
        name = _part_name(path)
        with disk_errors(self.folder / path), self._existing_parent(existing) as (source, source_name):
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
            # A rename onto another name of the same file does nothing (POSIX rename).
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work)

    def folds_case(self) -> bool:
        """Tell whether the disk takes `a` and `A` for the same name."""
        with self.part("case") as part:
            try:
                os.stat(part.name.upper(), dir_fd=self._work)
            except FileNotFoundError:
                return False
            finally:
                self.discard(part)
        return True

    def _copy(self, source: int, name: str, path: str) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            self.require(os.fstat(descriptor).st_size)
            with self.part(path) as part:
                part.restart()
                for chunk in _chunks(descriptor):
                    part.write(chunk)
                self.place(part, path)
        finally:
            os.close(descriptor)

    def _parent(self, path: str) -> tuple[int, str]:
        """Return the folder that a path lies in, made where need be, and the last part of the path.

        The folder stays open until this thread asks for another one.
        """
        folders, name = _split(path)
        folder, thread = "/".join(folders), threading.get_ident()
        last = self._last.get(thread)
        if last is None or last[0] != folder:
            opened = self._walk(folders, path, make=True)
            if last is not None:
                os.close(last[1])
            last = self._last[thread] = (folder, opened)
        return last[1], name

    @contextlib.contextmanager
    def _existing_parent(self, path: str) -> Iterator[tuple[int, str]]:
        folders, name = _split(path)
        descriptor = self._walk(folders, path, make=False)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _walk(self, folders: list[str], path: str, *, make: bool) -> int:
        """Open a folder from the root down, following no link."""
        descriptor = os.dup(self._root)
        try:
            for folder in folders:
                inner = self._enter(descriptor, folder, path, make=make)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _enter(self, parent: int, folder: str, path: str, *, make: bool) -> int:
        try:
            return os.open(folder, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, dir_fd=parent)
            return os.open(folder, _FOLDER, dir_fd=parent)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise UsageError(
                    f"writing {path!r} into {self.folder}: {folder!r} is there already and not a folder",
                    hint="extract does not write through links; move it away, or name another folder",
                    side="destination",
                ) from error
            raise

    def _take_lock(self) -> None:
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(WORK_FOLDER, dir_fd=self._root)
            # Where something is missing from here on, another process, done, has just removed the folder.
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
                work = os.open(WORK_FOLDER, _FOLDER, dir_fd=self._root)
                opened.callback(os.close, work)
                lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=work)
                opened.callback(os.close, lock)
                self._lock_file(lock)
                now = os.stat(f"{WORK_FOLDER}/{_LOCK}", dir_fd=self._root, follow_symlinks=False)
                if os.path.samestat(now, os.fstat(lock)):
                    opened.pop_all()
                    self._work, self._lock = work, lock
                    return

    def _lock_file(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(
                f"writing to {self.folder}: another extract is writing there",
                hint="wait until it is done, or name another folder",
                side="destination",
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._warn(f"{self.folder} is on a disk without locks: let no other extract write there now")


def _split(path: str) -> tuple[list[str], str]:
    parts = path.split("/")
    if parts[0] == WORK_FOLDER or any(part in {"", ".", ".."} for part in parts):
        raise IntegrityError(f"{path!r} is not a path to be written to")
    return parts[:-1], parts[-1]


def _part_name(key: str) -> str:
    """Return a part's name: of one length, however long the path is that it stands for."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40] + ".part"


def _chunks(descriptor: int) -> Generator[bytes, None, None]:
    while chunk := os.read(descriptor, CHUNK):
        yield chunk
