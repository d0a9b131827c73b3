"""An OCI image layout on a disk as a BlobStore (image-spec image-layout.md)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from llmstack.disk import DISK_FULL, lock, lock_directory, publish, replace_file
from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import MAX_MANIFEST_SIZE, Descriptor, Index, RawManifest, canonical_json, media_type_of
from llmstack.oci.store import CHUNK, BlobReader

REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_PART = ".part-"
_MODE = 0o644


class Layout:
    """Reads and writes one layout folder; implements BlobStore. The folder is made by the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """Return the folder as skopeo names it: `oci:FOLDER`."""
        return f"oci:{self.folder}"

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest or an index; see BlobReader."""
        if reference.startswith("sha256:"):
            return self._document(Digest.parse(reference))
        return self._document(find_manifest(self._index(), reference, self.name).digest)

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a blob's bytes; see BlobReader."""
        left = (blob.size if stop is None else stop) - start
        with self._opened(blob.digest) as file:
            with self._errors(f"blob {blob.digest}"):
                file.seek(start)
            while left > 0:
                # Not around the yield: what goes wrong there is not this disk's fault.
                with self._errors(f"blob {blob.digest}"):
                    chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise IntegrityError(f"{self.name}: blob {blob.digest} is shorter than {blob.size} bytes")
                left -= len(chunk)
                yield chunk

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        return tags_of(self._index())

    def digests(self) -> dict[str, Digest]:
        """Return all tags with the digest that each one names; of several under one tag it is the first."""
        entries = [(item.annotations.get(REF_NAME, ""), item.digest) for item in self._index().manifests]
        return {tag: digest for tag, digest in reversed(entries) if tag}

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the blob is there: only whole blobs ever carry their name."""
        try:
            return self._blob(digest).is_file()
        except OSError as error:
            raise UnavailableError(f"{self.name}: blob {digest} cannot be looked for: {error.strerror}") from error

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:  # noqa: ARG002 - see BlobStore
        """Return false: a folder keeps bytes of its own, which no other folder's fate can touch."""
        return False

    def write_blob(self, make_chunks: Callable[[], Iterable[bytes]]) -> tuple[Digest, int]:
        """Write a stream into a part file and give it its name when it is whole; see BlobStore."""
        digest, size = hashlib.sha256(), 0
        with self._writing(), self._part_file() as (file, part):
            for chunk in make_chunks():
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
            name = Digest("sha256:" + digest.hexdigest())
            publish(file, part, self._blob(name), _MODE)
        return name, size

    def put_manifest(self, document: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index, and list it in index.json under `tag`; see BlobStore."""
        self.write_blob(lambda: [document.data])
        if tag is None:
            return
        new = replace(document.descriptor, annotations={REF_NAME: tag})
        with self._writing(), lock_directory(self.folder):
            self._change(lambda item: item.annotations.get(REF_NAME) != tag, new)

    def delete_manifest(self, digest: Digest) -> bool:
        """Take an image out of index.json; see BlobStore. Its blobs stay: others may share them."""
        with self._writing(), lock_directory(self.folder):
            self._change(lambda item: item.digest != digest)
        return True

    def _change(self, stays: Callable[[Descriptor], bool], *new: Descriptor) -> None:
        """Write index.json anew; in entries that stay, what other programs have put there stays, too."""
        document = self._index_document()
        value = document.json()
        known = zip(Index.parse(document).manifests, value["manifests"], strict=True)
        entries = [(item, raw) for item, raw in known if stays(item)] + [(item, item.to_json()) for item in new]
        entries.sort(key=lambda entry: (entry[0].annotations.get(REF_NAME, ""), entry[0].digest))
        replace_file(
            self.folder / "index.json", canonical_json({**value, "manifests": [raw for _, raw in entries]}), _MODE
        )

    def _document(self, digest: Digest) -> RawManifest:
        with self._opened(digest) as file, self._errors(f"manifest {digest}"):
            data = file.read(MAX_MANIFEST_SIZE + 1)
        document = RawManifest("", data)
        if len(data) > MAX_MANIFEST_SIZE:
            raise IntegrityError(f"{self.name}: manifest {digest} is larger than {MAX_MANIFEST_SIZE} bytes")
        if document.digest != digest:
            raise IntegrityError(f"{self.name}: manifest {digest} does not match its digest")
        return replace(document, media_type=media_type_of(document.json()))

    def _index(self) -> Index:
        return Index.parse(self._index_document())

    def _index_document(self) -> RawManifest:
        try:
            with self._errors("index.json"), (self.folder / "index.json").open("rb") as file:
                return RawManifest("", file.read(MAX_MANIFEST_SIZE))
        except NotFoundError:
            return Index(()).to_raw()

    def _blob(self, digest: Digest) -> Path:
        return self.folder / "blobs" / "sha256" / digest.hex

    def _opened(self, digest: Digest) -> IO[bytes]:
        with self._errors(f"blob {digest}"):
            return self._blob(digest).open("rb")

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what the disk says when it is read into errors that name the layout."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.name}: {what} is missing") from error
        except OSError as error:
            raise UnavailableError(f"{self.name}: {what} cannot be read: {error.strerror}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Make the folder where need be, and turn the disk's refusals into errors a person can act on."""
        try:
            (self.folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (self.folder / "oci-layout").exists():
                with lock_directory(self.folder):
                    replace_file(self.folder / "oci-layout", _LAYOUT, _MODE)
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise UnavailableError(
                    f"writing to {self.name}: the disk is full", hint="free some space; what is whole is kept"
                ) from error
            raise UnavailableError(f"writing to {self.name}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _part_file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """Open a new part file, locked while it is written; part files that a killed process left are cleared away."""
        blobs = self.folder / "blobs" / "sha256"
        with lock_directory(self.folder):
            for stale in blobs.glob(f"{_PART}*"):
                _remove_if_unlocked(stale)
            descriptor, name = tempfile.mkstemp(prefix=_PART, dir=blobs)
            lock(descriptor, Path(name))
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def tags_of(index: Index) -> list[str]:
    """Return the tags that a layout's index.json lists, sorted."""
    return sorted({item.annotations.get(REF_NAME, "") for item in index.manifests} - {""})


def find_manifest(index: Index, reference: str, place: str) -> Descriptor:
    """Return the entry of a layout's index.json that a tag names; the empty tag names the only image there is.

    Raises NotFoundError that lists the tags, UsageError when there are several images and none is named.
    """
    names = tags_of(index)
    hint = f"it holds: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "it is empty"
    found = [item for item in index.manifests if not reference or item.annotations.get(REF_NAME) == reference]
    if not found:
        raise NotFoundError(f"{place} holds no image {reference}".rstrip(), hint=hint)
    if not reference and len({item.digest for item in found}) > 1:
        raise UsageError(f"{place} holds several images", hint=hint)
    return found[0]


def _remove_if_unlocked(part: Path) -> None:
    # NFS locks only what is open for writing.
    with contextlib.suppress(OSError), part.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
