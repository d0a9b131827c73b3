"""Hash a file's bytes while they are read, and compare the result with the hash that the Hub lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from llmstack.errors import LlmstackError
from llmstack.hf.snapshot import HubFile, git_blob_sha1
from llmstack.stream_hash import StreamHash


class FileHash:
    """The sha256 of a file, and its git blob sha1 where that is the Hub's hash of it."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._sha256 = StreamHash()
        self._git = None if file.is_lfs else git_blob_sha1(file.size)

    def copy(self) -> FileHash:
        """Return an independent hash of the same bytes."""
        other = FileHash(self._file)
        other._sha256 = self._sha256.copy()
        other._git = self._git and self._git.copy()
        return other

    def update(self, chunk: bytes | memoryview) -> None:
        """Hash the next bytes of the file."""
        self._sha256.update(chunk)
        if self._git:
            self._git.update(chunk)

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes."""
        return self._sha256.hexdigest()

    @property
    def oid(self) -> str:
        """The hash that the Hub lists for these bytes: the git blob sha1, or the sha256 of an LFS file."""
        return self._git.hexdigest() if self._git else self.sha256

    @property
    def matches(self) -> bool:
        """Whether the bytes have the hash that is listed for the file."""
        return self.oid == self._file.oid


def hash_while_reading(
    file: HubFile,
    chunks: Generator[bytes, None, None],
    on_verified: Callable[[HubFile, str], None],
    mismatch: Callable[[HubFile], LlmstackError],
) -> Generator[bytes, None, None]:
    """Yield `chunks` unchanged; at the end, check the hash and pass the sha256 to `on_verified`.

    Raises the error of `mismatch` at the end if another hash is listed. Closing the generator closes `chunks`.
    """
    file_hash = FileHash(file)
    with contextlib.closing(chunks):
        for chunk in chunks:
            file_hash.update(chunk)
            yield chunk
    if not file_hash.matches:
        raise mismatch(file)
    on_verified(file, file_hash.sha256)
