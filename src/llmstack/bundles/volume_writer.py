"""Write a volume: its pieces as they stream in, then bundle.json and index.json, and SHA256SUMS last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import IO

from llmstack.bundles.document import FILE_NAME, Piece, Volume
from llmstack.disk import disk_errors as writing_errors
from llmstack.disk import is_disk_full, publish, replace_file
from llmstack.errors import IntegrityError, LlmstackError, UnavailableError, UsageError, on_side
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.reference import Digest
from llmstack.oci.store import CHUNK
from llmstack.reporting import Reporter, Task

SUMS = "SHA256SUMS"
_PARTIAL = ".partial"

# Yields the bytes of a blob from an offset on.
ReadBlob = Callable[[Digest, int], Generator[bytes, None, None]]


class _DamagedError(LlmstackError):
    """The bytes do not match the digest of the blob."""


@dataclass
class VolumeWriter:
    """Writes the volumes of a bundle in order; `read` is where the blobs come from.

    `take` may move a complete and verified blob to its place instead.

    A blob's hash continues in the next volume. After an interruption, the bytes that earlier volumes have are read from
    the source again for it: they may be on another disk by now.
    """

    read: ReadBlob
    reporter: Reporter
    cancel: Event
    jobs: int
    take: Callable[[Digest, Path], bool] = lambda _digest, _target: False
    _running: dict[Digest, hashlib._Hash] = field(default_factory=dict)

    def write(self, folder: Path, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Write a volume into `folder`; `files` are small files besides the pieces. Raises LlmstackError."""
        with disk_errors(folder):
            (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        groups = [list(pieces) for _, pieces in groupby(volume.pieces, key=lambda piece: piece.digest)]
        sums = {
            path: digest
            for found in run_all(lambda pieces: self._write_blob(folder, pieces), groups, self.jobs, self.cancel)
            for path, digest in found.items()
        }
        for path, data in {**files, FILE_NAME: volume.to_bytes()}.items():
            sums[path] = hashlib.sha256(data).hexdigest()
            with disk_errors(folder):
                replace_file(folder / path, data)
        lines = [f"{digest}  {path}\n" for path, digest in sorted(sums.items())]
        with disk_errors(folder):
            replace_file(folder / SUMS, "".join(lines).encode())

    def _write_blob(self, folder: Path, pieces: list[Piece]) -> dict[str, str]:
        """Write the pieces of one blob in this volume, and return their hashes by path."""
        first = pieces[0]
        task = self.reporter.task(first.digest.hex[:12], sum(piece.length for piece in pieces))
        try:
            if first.is_whole:
                return self._write_whole(folder, first, task)
            return self._write_parts(folder, pieces, task)
        finally:
            task.done()

    def _write_whole(self, folder: Path, piece: Piece, task: Task) -> dict[str, str]:
        """Write a complete blob, after what an interrupted run has written of it."""
        target = folder / piece.path
        partial = target.with_name(target.name + _PARTIAL)
        count = unless_cancelled(task.advance, self.cancel)
        with disk_errors(folder):
            # The rename was the last step of a run that checked the bytes.
            exists = target.exists() and target.stat().st_size == piece.size
            if exists or self.take(piece.digest, target):
                task.advance(piece.size)
                return {piece.path: piece.digest.hex}
            sha256, size = _hash_file(partial, piece.size, count)
        try:
            self._append(piece, target, partial, size, sha256, count)
        except _DamagedError:
            if not size:
                raise _damaged(piece) from None
            # What the interrupted run left may be damaged, for example by a power failure.
            task.advance(-piece.size)
            try:
                self._append(piece, target, partial, 0, hashlib.sha256(), count)
            except _DamagedError:
                raise _damaged(piece) from None
        return {piece.path: piece.digest.hex}

    def _append(
        self,
        piece: Piece,
        target: Path,
        partial: Path,
        size: int,
        sha256: hashlib._Hash,
        count: Callable[[int], None],
    ) -> None:
        with disk_errors(target.parent), partial.open("ab") as file:
            file.truncate(size)
            with contextlib.closing(self.read(piece.digest, size)) as chunks:
                for chunk in _counted(chunks, count):
                    sha256.update(chunk)
                    file.write(chunk)
            if file.tell() != piece.size or sha256.hexdigest() != piece.digest.hex:
                file.close()
                partial.unlink()
                raise _DamagedError("damaged")
            publish(file, partial, target)

    def _write_parts(self, folder: Path, pieces: list[Piece], task: Task) -> dict[str, str]:
        """Write consecutive parts of a blob; an interrupted run leaves nothing of them that is used."""
        digest, start, size = pieces[0].digest, pieces[0].start, pieces[0].size
        whole = self._running.pop(digest, None)
        sums: dict[str, str] = {}
        with contextlib.closing(self.read(digest, 0 if whole is None else start)) as chunks:
            stream = _Stream(_counted(chunks, unless_cancelled(lambda _: None, self.cancel)), whole or hashlib.sha256())
            if whole is None:
                for _ in stream.take(start):
                    pass
            for piece in pieces:
                target = folder / piece.path
                partial = target.with_name(target.name + _PARTIAL)
                part = hashlib.sha256()
                with disk_errors(folder), partial.open("wb") as file:
                    for chunk in stream.take(piece.length):
                        part.update(chunk)
                        file.write(chunk)
                        task.advance(len(chunk))
                    self._check_end(piece, file, stream)
                    publish(file, partial, target)
                sums[piece.path] = part.hexdigest()
        if pieces[-1].stop < size:
            self._running[digest] = stream.sha256
        return sums

    @staticmethod
    def _check_end(piece: Piece, file: IO[bytes], stream: _Stream) -> None:
        short = file.tell() != piece.length
        if short or (piece.stop == piece.size and stream.sha256.hexdigest() != piece.digest.hex):
            raise _damaged(piece)


class _Stream:
    """Chunks of a blob with their running hash; `take` cuts them where a part ends."""

    def __init__(self, chunks: Iterable[bytes], sha256: hashlib._Hash) -> None:
        self._chunks = iter(chunks)
        self._rest = b""
        self.sha256 = sha256

    def take(self, count: int) -> Generator[bytes, None, None]:
        """Yield the next `count` bytes, fewer at the end of the blob."""
        while count:
            chunk = self._rest or next(self._chunks, b"")
            if not chunk:
                return
            taken, self._rest = chunk[:count], chunk[count:]
            count -= len(taken)
            self.sha256.update(taken)
            yield taken


def check_largest_file(folder: Path, size: int) -> None:
    """Raise UsageError if the file system has no room in a file for `size` bytes, as FAT32."""
    probe = folder / f".size{_PARTIAL}"
    try:
        with disk_errors(folder), probe.open("wb") as file:
            file.truncate(size)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Generator[None, None, None]:
    """Turn an OSError from writing a bundle into an LlmstackError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(
                f"writing to {folder}: the file system does not allow files of this size",
                hint="split the bundle: --volume-size fat32",
                side="destination",
            ) from error
        try:
            with writing_errors(folder):
                raise
        except UnavailableError as unavailable:
            full = "move finished volumes to another disk or free some space, then rerun to resume"
            unavailable.hint = full if is_disk_full(error) else "is the disk still mounted? Rerun to resume"
            raise


def _hash_file(path: Path, limit: int, count: Callable[[int], None]) -> tuple[hashlib._Hash, int]:
    """Hash what an interrupted run left; return the hash and the size, 0 if it cannot be continued."""
    sha256, size = hashlib.sha256(), 0
    if not path.exists() or path.stat().st_size > limit:
        return sha256, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            size += len(chunk)
            count(len(chunk))
    return sha256, size


def _counted(chunks: Iterable[bytes], count: Callable[[int], None]) -> Generator[bytes, None, None]:
    with on_side("source"):
        for chunk in chunks:
            count(len(chunk))
            yield chunk


def _damaged(piece: Piece) -> IntegrityError:
    return IntegrityError(
        f"blob {piece.digest}: does not match its digest", hint="carry the image to the source again", side="source"
    )


def free_space(folder: Path) -> int:
    """Return the free bytes of the disk; raises LlmstackError."""
    with disk_errors(folder):
        stats = os.statvfs(folder)
        return stats.f_bavail * stats.f_frsize
