"""A build context as a reproducible tar, so that Docker's cache depends on the files only."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from llmstack.errors import UsageError


def write_context(dockerfile: str, files: Mapping[str, bytes | Path]) -> IO[bytes]:
    """Return an unnamed temporary file with the context's tar, positioned at the start; the caller closes it.

    `files` maps paths in the context to contents: bytes, a file, or a directory. Files that start with `#!` become
    executable, whatever their mode on disk. Raises UsageError if a file cannot be read.
    """
    spool = tempfile.TemporaryFile(prefix="llmstack-context-")  # noqa: SIM115 - the caller closes it
    try:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in sorted({**files, "Dockerfile": dockerfile.encode()}.items()):
                _add(tar, name, content)
    except OSError as error:
        spool.close()
        raise UsageError(f"build context: cannot be written: {error}") from error
    spool.seek(0)
    return spool


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        _add_file(tar, name, io.BytesIO(content), len(content))
        return
    for path, context_name in _walk(content, name):
        with path.open("rb") as file:
            _add_file(tar, context_name, file, path.stat().st_size)


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files at and below a path with their names in the context, without `.git`."""
    if path.is_file():
        yield path, name
        return
    for item in sorted(path.rglob("*")):
        relative = item.relative_to(path)
        if item.is_file() and ".git" not in relative.parts:
            yield item, f"{name}/{relative.as_posix()}"


def _add_file(tar: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if file.read(2) == b"#!" else 0o644
    file.seek(0)
    tar.addfile(info, file)
