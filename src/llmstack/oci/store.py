"""The one small interface to where images lie: a registry's repository, an OCI layout on a disk, an archive.

ferry writes against BlobStore, extract and the other readers against BlobReader; neither knows which it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Protocol

from llmstack.errors import IntegrityError, on_side
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor, RawManifest

# Big enough that a chunk costs more to move than to hand over, small enough that eight of them are nothing.
CHUNK = 1024 * 1024


class BlobReader(Protocol):
    """Where manifests and blobs are read from. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """What messages call this place: `registry.local/llm/models`, `oci:./carried/models`."""

    def manifest(self, reference: str) -> RawManifest:
        """Return the manifest or index that a tag or a digest names.

        Raises NotFoundError, IntegrityError if the bytes do not match a digest, NotAuthorizedError, UnavailableError.
        """

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the blob's bytes from `start` up to `stop` (the end by default), not verified.

        A dropped connection is resumed where it broke. Closing the iterator ends the transfer. Raises NotFoundError,
        IntegrityError if the blob is shorter than that, NotAuthorizedError, UnavailableError.
        """

    def tags(self) -> list[str]:
        """Return all tags, sorted; empty when the repository does not exist."""


class BlobStore(BlobReader, Protocol):
    """A BlobReader that can be written to."""

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the blob is there, whole."""

    def write_blob(self, make_chunks: Callable[[], Iterable[bytes]]) -> tuple[Digest, int]:
        """Store a stream whose digest is not known beforehand; return its digest and size.

        `make_chunks` is called again when an upload broke and has to start over. An exception out of the chunks
        cancels the upload: nothing is kept, and the exception passes through.
        """

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:
        """Take a blob over from `source` without moving its bytes, if both are of one registry; tell if it worked."""

    def put_manifest(self, document: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index by its digest, and under `tag` when one is given."""

    def delete_manifest(self, digest: Digest) -> bool:
        """Delete a manifest or an index with every tag that names it; false where this is not allowed."""


def read_verified(reader: BlobReader, blob: Descriptor, limit: int) -> bytes:
    """Return a small blob whole (a config, a file index), checked against its digest.

    Raises IntegrityError if it claims more than `limit` bytes or does not match its digest or size.
    """
    if blob.size > limit:
        raise IntegrityError(f"{reader.name}: blob {blob.digest} claims {blob.size} bytes, more than {limit}")
    with closing(reader.read_blob(blob)) as chunks:
        data = b"".join(chunks)
    if len(data) != blob.size or Digest.of(data) != blob.digest:
        raise IntegrityError(f"{reader.name}: blob {blob.digest} does not match its digest")
    return data


def verified(chunks: Iterable[bytes], blob: Descriptor, place: str) -> Iterator[bytes]:
    """Pass a whole blob's chunks on; raises IntegrityError at its end if size or digest do not match."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if size != blob.size or digest.hexdigest() != blob.digest.hex:
        raise IntegrityError(f"{place}: blob {blob.digest} does not match its digest")


def copy_blob(blob: Descriptor, source: BlobReader, target: BlobStore) -> bool:
    """Make sure that `target` holds a blob of `source`; tell whether its bytes had to move."""
    if target.has_blob(blob.digest) or target.mount_blob(blob, source):
        return False
    target.write_blob(lambda: _from_source(verified(source.read_blob(blob), blob, source.name)))
    return True


def _from_source(chunks: Iterable[bytes]) -> Iterator[bytes]:
    with on_side("source"):
        yield from chunks


def write_bytes(target: BlobStore, data: bytes) -> None:
    """Store a small blob unless it is there already."""
    if not target.has_blob(Digest.of(data)):
        target.write_blob(lambda: [data])
