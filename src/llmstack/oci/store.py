"""The interface to everything that holds images: a repository in a registry, an OCI layout, an image archive.

ferry writes to a BlobStore; extract, verify, inspect and the hub read from a BlobReader.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Protocol

from llmstack.errors import IntegrityError, on_side
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor, RawManifest
from llmstack.stream_hash import StreamHash

# Large enough that the cost per chunk does not matter, small enough for many parallel transfers.
CHUNK = 1024 * 1024


class BlobReader(Protocol):
    """Reads manifests and blobs. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """The name for messages: `registry.local:5000/llm/models`, `oci:./carried/models`."""

    def manifest(self, reference: str) -> RawManifest:
        """Return the manifest or index that a tag or a digest names.

        Raises NotFoundError, IntegrityError if the bytes do not match a digest, NotAuthorizedError, UnavailableError.
        """

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the blob's bytes from `start` up to `stop` (the end by default), not verified.

        Resumes after a dropped connection. Closing the iterator ends the transfer. Raises NotFoundError,
        IntegrityError if the blob has another size, NotAuthorizedError, UnavailableError.
        """

    def tags(self) -> list[str]:
        """Return all tags, sorted; none if the repository does not exist."""

    def digests(self, tags: Sequence[str] | None = None, jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digest of each tag (None: of all tags); tags that do not exist are left out.

        A registry is asked with `jobs` requests at a time. Raises NotAuthorizedError, UnavailableError.
        """

    def referrers(self, digest: Digest) -> list[Descriptor]:
        """Return the manifests whose subject is the manifest `digest`: signatures, SBOMs.

        Raises NotAuthorizedError, UnavailableError.
        """


class BlobStore(BlobReader, Protocol):
    """Reads and writes manifests and blobs."""

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the complete blob exists."""

    def write_blob(
        self, make_chunks: Callable[[], Iterable[bytes]], expected: Descriptor | None = None, /
    ) -> tuple[Digest, int]:
        """Store a stream; return its digest and size.

        Calls `make_chunks` again if an upload has to start over. An exception from the chunks cancels the upload and
        passes through; nothing is stored then. Raises IntegrityError with the side "source", and stores nothing, if
        the stream is not the `expected` blob.
        """

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:
        """Mount a blob from another repository of the same registry; tell whether the registry did it."""

    def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index by its digest, and set `tag` to it if one is given.

        A manifest with a subject is found by `referrers` afterwards.
        """

    def delete_manifest(self, digest: Digest, tag: str, /) -> bool:
        """Delete a manifest or an index with all its tags; tell whether `tag` no longer refers to it.

        Returns false if the store does not allow it.
        """


def read_verified(reader: BlobReader, blob: Descriptor, limit: int) -> bytes:
    """Return a small blob, for example a config.

    Raises IntegrityError if it is larger than `limit` bytes, or does not match its digest or size.
    """
    if blob.size > limit:
        raise IntegrityError(f"{reader.name}: blob {blob.digest}: {blob.size} bytes, the limit is {limit}")
    with contextlib.closing(reader.read_blob(blob)) as chunks:
        data = b"".join(chunks)
    if len(data) != blob.size or Digest.of(data) != blob.digest:
        raise IntegrityError(f"{reader.name}: blob {blob.digest}: does not match its digest")
    return data


def verified(chunks: Iterable[bytes], blob: Descriptor, name: str) -> Iterator[bytes]:
    """Pass the chunks of a blob on; raises IntegrityError at the end if size or digest do not match."""
    digest, size = StreamHash(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > blob.size:
            break
        yield chunk
    if size != blob.size or digest.hexdigest() != blob.digest.hex:
        raise IntegrityError(f"{name}: blob {blob.digest}: does not match its digest")


def check_expected(digest: Digest, size: int, expected: Descriptor | None) -> None:
    """Raise IntegrityError if a stream that was written is not the blob that was expected."""
    if expected and (digest, size) != (expected.digest, expected.size):
        raise IntegrityError(f"blob {expected.digest}: does not match its digest", side="source")


def copy_blob(blob: Descriptor, source: BlobReader, target: BlobStore) -> bool:
    """Copy a blob unless `target` has it; tell whether bytes were transferred."""
    if target.has_blob(blob.digest) or target.mount_blob(blob, source):
        return False
    with _damage_of(source):
        target.write_blob(lambda: _from_source(source.read_blob(blob)), blob)
    return True


@contextlib.contextmanager
def _damage_of(source: BlobReader) -> Iterator[None]:
    """Name the source in the error about its bytes."""
    try:
        yield
    except IntegrityError as error:
        if error.side == "source" and not error.message.startswith(source.name):
            error.message = f"{source.name}: {error.message}"
        raise


def _from_source(chunks: Iterable[bytes]) -> Iterator[bytes]:
    with on_side("source"):
        yield from chunks


class _EndOfProbe(Exception):  # noqa: N818 - not an error: it ends an upload that was only begun
    """Cancels the upload of check_writable."""


def check_writable(target: BlobStore) -> None:
    """Begin an upload and cancel it, so that nothing is stored; raises what a real one would."""

    def no_chunks() -> Iterator[bytes]:
        raise _EndOfProbe
        yield b""

    with contextlib.suppress(_EndOfProbe):
        target.write_blob(no_chunks)


def write_bytes(target: BlobStore, data: bytes) -> None:
    """Store a small blob unless `target` has it."""
    if not target.has_blob(Digest.of(data)):
        target.write_blob(lambda: [data])
