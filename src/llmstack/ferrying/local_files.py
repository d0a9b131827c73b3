"""Find and read the files that `ferry --as` carries: of a directory, of an entry of a Hugging Face cache, or one file.

Other programs may change the directory meanwhile, and its content may be hostile: a file is read only while it is the
one that was found, and links are followed only inside the directory or the cache entry.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shlex
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from llmstack.errors import IntegrityError, LlmstackError, UnavailableError, UsageError
from llmstack.ferrying.ignore_rules import IgnoreRules
from llmstack.hf.cache_layout import CACHEDIR_TAG, CACHEDIR_TAG_CONTENT
from llmstack.net import Cancelled

MAX_FILES = 1_000_000
_MAX_IGNORE_FILE = 1024 * 1024
_CHUNK = 512 * 1024
# What git, `hf download --local-dir`, Python and Jupyter keep for themselves.
_SKIPPED_NAMES = frozenset({".git", "__pycache__", ".ipynb_checkpoints"})
_SKIPPED_PATH = ".cache/huggingface"
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A program that replaces or deletes the file while it is carried causes these.
_CHANGED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})

FileState = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to carry: its path in the repo, where it is on the disk, and its state when it was found.

    `known_sha256` is the hash in the name of a cache's blob: it is not verified yet.
    """

    path: str
    location: str
    state: FileState
    known_sha256: str | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.state[2]

    def chunks(self, start: int, stop: int, cancel: Event) -> Generator[bytes, None, None]:
        """Yield the bytes from `start` up to `stop`.

        Raises IntegrityError if the file has changed since it was found, UsageError without permission to read it,
        UnavailableError if the disk fails, Cancelled.
        """
        with _reading(self.path):
            descriptor = os.open(self.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._check(descriptor)
                while start < stop:
                    if cancel.is_set():
                        raise Cancelled("cancelled")
                    chunk = os.pread(descriptor, min(_CHUNK, stop - start), start)
                    if not chunk:
                        raise changed(self.path)
                    start += len(chunk)
                    yield chunk
                self._check(descriptor)
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        # A directory may have been replaced by a link: the path is that of the file that was opened.
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        if _state(os.fstat(descriptor)) != self.state or opened != Path(self.location):
            raise changed(self.path)


def changed(path: str) -> IntegrityError:
    """Return the error for a file that another program has changed or deleted."""
    return IntegrityError(
        f"{path}: the file changed while it was carried", hint="rerun when no program writes to it", side="source"
    )


@dataclass(frozen=True, slots=True)
class LocalTree:
    """The files of a directory in the order of their paths; links in it may lead to any file below `boundary`.

    A cache's snapshot has exactly the files of the repo, so nothing is skipped in it.
    """

    directory: Path
    boundary: Path
    is_snapshot: bool = False

    def find(self) -> FoundFiles:
        """Return all files. What cannot be carried becomes a problem, because `--exclude` may leave it out."""
        found = FoundFiles()
        rules = IgnoreRules()
        pending = [("", rules)]
        while pending:
            prefix, rules = pending.pop()
            try:
                with os.scandir(self.directory / prefix) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                found.problems[prefix or "."] = unreadable(prefix or ".", error)
                continue
            if not self.is_snapshot and any(entry.name == ".gitignore" for entry in entries):
                rules = _with_ignore_file(rules, self.directory, prefix, found)
            for entry in entries:
                self._add(entry, prefix + entry.name, rules, found, pending)
            if len(found.files) > MAX_FILES:
                raise UsageError(f"{self.directory}: more than {MAX_FILES:,} files", hint="pack them into archives")
        found.files.sort(key=lambda file: os.fsencode(file.path))
        return found

    def _add(
        self,
        entry: os.DirEntry[str],
        path: str,
        rules: IgnoreRules,
        found: FoundFiles,
        pending: list[tuple[str, IgnoreRules]],
    ) -> None:
        """Sort one entry of a directory into files, problems, skipped paths or directories to read."""
        try:
            is_directory = entry.is_dir(follow_symlinks=False)
            if not self.is_snapshot and (
                rules.ignores(path, is_directory=is_directory) or _is_cache(entry, path, is_directory=is_directory)
            ):
                # Everyone knows about .git.
                if entry.name != ".git":
                    found.skipped.append(f"{path}/" if is_directory else path)
            elif is_directory:
                pending.append((f"{path}/", rules))
            else:
                found.files.append(self._file(entry, path))
        except OSError as error:
            found.problems[path] = unreadable(path, error)
        except LlmstackError as error:
            found.problems[path] = error

    def _file(self, entry: os.DirEntry[str], path: str) -> LocalFile:
        if not entry.is_symlink():
            return local_file(path, entry.path)
        target = os.path.realpath(entry.path, strict=True)
        if not Path(target).is_relative_to(self.boundary):
            raise _bad_link(path, "leads out of the directory")
        if Path(target).is_dir():
            raise _bad_link(path, "leads to a directory")
        return local_file(path, target)


@dataclass(slots=True)
class FoundFiles:
    """The files of a directory, what was skipped, and by path what cannot be carried."""

    files: list[LocalFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: dict[str, LlmstackError] = field(default_factory=dict)


def local_file(path: str, location: str) -> LocalFile:
    """Return the file at `location` as `path` of the repo; raises UsageError unless it is a regular file."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        hint = "rename the file, or leave it out with --exclude"
        raise UsageError(f"{path}: the name is not UTF-8", hint=hint, side="source") from error
    with _reading(path):
        status = Path(location).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: neither a file nor a directory", hint=_leave_out(path), side="source")
    return LocalFile(path, location, _state(status), _sha256_of_blob(Path(location)))


def _state(status: os.stat_result) -> FileState:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def is_cache_entry(directory: Path) -> bool:
    """Tell whether a directory is a repo's entry in a Hugging Face cache."""
    return directory.name.startswith(("models--", "datasets--")) and (directory / "snapshots").is_dir()


def _sha256_of_blob(location: Path) -> str | None:
    """Return the hash that names a blob of a Hugging Face cache; blobs of small files are named by a git hash."""
    is_blob = location.parent.name == "blobs" and is_cache_entry(location.parent.parent)
    return location.name if is_blob and _SHA256.fullmatch(location.name) else None


def _is_cache(entry: os.DirEntry[str], path: str, *, is_directory: bool) -> bool:
    """Tell whether a path is data of git or a cache (Cache Directory Tagging Specification); git's may be a file."""
    if entry.name in _SKIPPED_NAMES:
        return is_directory or entry.name == ".git"
    signature = CACHEDIR_TAG_CONTENT.partition(b"\n")[0]
    return is_directory and (
        path == _SKIPPED_PATH or (_read_start(Path(entry.path, CACHEDIR_TAG), len(signature)) == signature)
    )


def _with_ignore_file(rules: IgnoreRules, directory: Path, prefix: str, found: FoundFiles) -> IgnoreRules:
    path = f"{prefix}.gitignore"
    content = _read_start(directory / path, _MAX_IGNORE_FILE + 1)
    if content is None:
        return rules
    if len(content) > _MAX_IGNORE_FILE:
        found.problems[path] = UsageError(f"{path}: larger than 1 MiB", side="source")
        return rules
    return rules.with_file(prefix, content)


def _read_start(path: Path, size: int) -> bytes | None:
    """Return the first bytes of a regular file; None if it is missing, something else, or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read(size) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        except OSError:
            return None


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise changed(path) if error.errno in _CHANGED else unreadable(path, error) from error


def unreadable(path: str, error: OSError) -> LlmstackError:
    """Return the error for a path that cannot be read."""
    if error.errno in {errno.ENOENT, errno.ELOOP}:
        return _bad_link(path, "leads nowhere")
    message = f"{path}: cannot be read: {error.strerror}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return UsageError(message, hint=f"change its permissions, or {_leave_out(path)}", side="source")
    return UnavailableError(message, hint="check the disk, then rerun", side="source")


def _bad_link(path: str, problem: str) -> UsageError:
    hint = f"replace the link with a copy of its target (cp -L), or {_leave_out(path)}"
    return UsageError(f"{path}: the symbolic link {problem}", hint=hint, side="source")


def _leave_out(path: str) -> str:
    return f"leave it out: --exclude {shlex.quote(glob.escape(path))}"
