"""A build context as a tar: the same files give the same bytes, so that Docker's cache depends on nothing else."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from llmstack.errors import UsageError


def write_context(dockerfile: str, files: Mapping[str, bytes | Path]) -> IO[bytes]:
    """Return an unnamed temporary file with the context's tar, at its start; the caller closes it.

    `files` are named by their path in the context; a Path is a file or a whole folder. Scripts (files that begin with
    `#!`) are executable, whatever they were on the disk. Raises UsageError if one cannot be read.
    """
    # Returned open: the upload reads it.
    spool = tempfile.TemporaryFile(prefix="llmstack-context-")  # noqa: SIM115 - who asked for it closes it
    try:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in sorted({**files, "Dockerfile": dockerfile.encode()}.items()):
                _add(tar, name, content)
    except OSError as error:
        spool.close()
        raise UsageError(f"the build context cannot be written: {error}") from error
    spool.seek(0)
    return spool


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        _add_file(tar, name, io.BytesIO(content), len(content))
        return
    for path, inside in _walk(content, name):
        with path.open("rb") as file:
            _add_file(tar, inside, file, path.stat().st_size)


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files at and below a path, with their names in the context; version control's own files stay out."""
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
