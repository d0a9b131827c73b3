"""A build context, as a reproducible tar for Docker or as a directory for any builder."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from llmstack.errors import UsageError

Files = Mapping[str, bytes | Path]


def write_context(dockerfile: str, files: Files) -> IO[bytes]:
    """Return an unnamed temporary file with the context's tar, positioned at the start; the caller closes it.

    Equal files give an equal tar, so that Docker's cache depends on the files only. `files` maps paths in the context
    to contents: bytes, a file, or a directory. Files that start with `#!` become executable, whatever their mode on
    disk. Raises UsageError if a file cannot be read.
    """
    spool = tempfile.TemporaryFile(prefix="llmstack-context-")  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, file, size in _open_all(dockerfile, files):
                info = tarfile.TarInfo(name)
                info.size, info.mode = size, _mode(file)
                tar.addfile(info, file)
    except OSError as error:
        spool.close()
        raise UsageError(f"build context: cannot be written: {error}") from error
    spool.seek(0)
    return spool


def write_directory(dockerfile: str, files: Files, folder: Path) -> None:
    """Write the context into a directory that is empty or does not exist yet; `files` as for write_context.

    Raises UsageError. The directory appears when it is complete.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: is not an empty directory", hint="name a new directory, or remove this one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            context = Path(work, "context")
            for name, file, _ in _open_all(dockerfile, files):
                path = context / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
                path.chmod(_mode(file))
            context.replace(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _open_all(dockerfile: str, files: Files) -> Iterator[tuple[str, IO[bytes], int]]:
    """Yield the name, the open file and the size of each file of the context, in order."""
    for name, content in sorted({**files, "Dockerfile": dockerfile.encode()}.items()):
        if isinstance(content, bytes):
            yield name, io.BytesIO(content), len(content)
            continue
        for path, context_name in _walk(content, name):
            with path.open("rb") as file:
                yield context_name, file, os.fstat(file.fileno()).st_size


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files at and below a path with their names in the context, without `.git`."""
    if path.is_file():
        yield path, name
        return
    for item in sorted(path.rglob("*")):
        relative = item.relative_to(path)
        if item.is_file() and ".git" not in relative.parts:
            yield item, f"{name}/{relative.as_posix()}"


def _mode(file: IO[bytes]) -> int:
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    return 0o755 if start == b"#!" else 0o644
