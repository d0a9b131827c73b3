"""OCI image layouts in a directory (image-spec image-layout.md).

What a layout has is not trusted: no symbolic link below its directory is followed, and only regular files are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from llmstack.disk import disk_unavailable, lock, lock_directory, publish, replace_file
from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.regular_files import RegularFiles
from llmstack.oci.spec import (
    MAX_MANIFEST_SIZE,
    Descriptor,
    Index,
    RawManifest,
    canonical_json,
    media_type_of,
    subject_of,
)
from llmstack.oci.store import BlobReader, check_expected
from llmstack.stream_hash import StreamHash

REF_NAME = "org.opencontainers.image.ref.name"
# The list of all images is no manifest: no registry limits it. Room for more than 100,000 images.
MAX_LAYOUT_INDEX_SIZE = 32 * 1024 * 1024
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_PARTIAL = ".part-"
_MODE = 0o644


class Layout:
    """Reads and writes the layout in a directory; implements BlobStore. The first write creates the directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = RegularFiles(folder, self.name)
        self._referrers: tuple[Digest, dict[Digest, list[Descriptor]]] | None = None

    @property
    def name(self) -> str:
        """The layout as skopeo names it: `oci:DIRECTORY`."""
        return f"oci:{self.folder}"

    def manifest(self, reference: str) -> RawManifest:
        """Return the manifest or index of a tag or digest; see BlobReader."""
        if reference.startswith("sha256:"):
            return self._manifest(Digest.parse(reference))
        return self._manifest(find_manifest(self._index(), reference, self.name).digest)

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob; see BlobReader."""
        stop = blob.size if stop is None else stop
        yield from self._files.chunks(blob_path(blob.digest), f"blob {blob.digest}", blob.size, start, stop)

    def open_blob(self, blob: Descriptor) -> IO[bytes]:
        """Open a blob; raises NotFoundError, IntegrityError if it has another size, UnavailableError."""
        return self._files.open_sized(blob_path(blob.digest), f"blob {blob.digest}", blob.size)

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        return tags_of(self._index())

    def entries(self) -> list[Digest]:
        """Return the digests of all entries of index.json, with and without a tag."""
        return [item.digest for item in self._index().manifests]

    def digests(self, tags: Sequence[str] | None = None, _jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of tags; see BlobReader."""
        return digests_of(self._index(), tags)

    def referrers(self, digest: Digest) -> list[Descriptor]:
        """Return the manifests in index.json whose subject is `digest`; see BlobReader."""
        raw = self._raw_index()
        if self._referrers is None or self._referrers[0] != raw.digest:
            found: dict[Digest, list[Descriptor]] = {}
            for item in Index.parse(raw).manifests:
                if not item.annotations.get(REF_NAME) and (subject := subject_of(self._manifest(item.digest))):
                    found.setdefault(subject, []).append(item)
            self._referrers = raw.digest, found
        return self._referrers[1].get(digest, [])

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the blob exists; incomplete blobs have other names."""
        try:
            self._files.open(blob_path(digest), f"blob {digest}").close()
        except (NotFoundError, IntegrityError):
            return False
        return True

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:  # noqa: ARG002 - see BlobStore
        """Return false: layouts do not share files, so that damage to one is not damage to another."""
        return False

    def write_blob(
        self, make_chunks: Callable[[], Iterable[bytes]], expected: Descriptor | None = None, /
    ) -> tuple[Digest, int]:
        """Write a stream to a partial file, and rename it when it is complete; see BlobStore."""
        sha256, size = StreamHash(), 0
        with self._writing(), self._partial_file() as (file, path):
            for chunk in make_chunks():
                sha256.update(chunk)
                size += len(chunk)
                file.write(chunk)
            digest = Digest("sha256:" + sha256.hexdigest())
            check_expected(digest, size, expected)
            publish(file, path, self.folder / blob_path(digest), _MODE)
        return digest, size

    def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index, and list it in index.json under `tag`; see BlobStore."""
        self.write_blob(lambda: [manifest.data])
        if tag is not None:
            new = replace(manifest.descriptor, annotations={REF_NAME: tag})
            with self._writing(), lock_directory(self.folder):
                self._update_index(lambda item: item.annotations.get(REF_NAME) != tag, new)
        elif subject_of(manifest):
            # Only what index.json lists can be found.
            with self._writing(), lock_directory(self.folder):
                self._update_index(lambda item: item.digest != manifest.digest, manifest.descriptor)

    def delete_manifest(self, digest: Digest, _tag: str, /) -> bool:
        """Remove an image from index.json; see BlobStore. Other images may share its blobs, so they stay."""
        with self._writing(), lock_directory(self.folder):
            self._update_index(lambda item: item.digest != digest)
        return True

    def _update_index(self, keep: Callable[[Descriptor], bool], *new: Descriptor) -> None:
        """Write index.json with the entries to keep, and with all members that other programs wrote."""
        raw = self._raw_index()
        value = raw.json()
        old = zip(Index.parse(raw).manifests, value["manifests"], strict=True)
        entries = [(item, member) for item, member in old if keep(item)] + [(item, item.to_json()) for item in new]
        entries.sort(key=lambda entry: (entry[0].annotations.get(REF_NAME, ""), entry[0].digest))
        data = canonical_json({**value, "manifests": [member for _, member in entries]})
        if len(data) > MAX_LAYOUT_INDEX_SIZE:
            raise UnavailableError(
                f"writing to {self.name}: index.json would have {len(data):,} bytes, "
                f"the limit is {MAX_LAYOUT_INDEX_SIZE:,}",
                hint="write to another layout, one directory per project for example",
            )
        replace_file(self.folder / "index.json", data, _MODE)

    def _manifest(self, digest: Digest) -> RawManifest:
        what = f"manifest {digest}"
        raw = RawManifest("", self._files.read(blob_path(digest), what, MAX_MANIFEST_SIZE))
        if raw.digest != digest:
            raise IntegrityError(f"{self.name}: {what}: does not match its digest")
        return replace(raw, media_type=media_type_of(raw.json()))

    def _index(self) -> Index:
        return Index.parse(self._raw_index())

    def _raw_index(self) -> RawManifest:
        try:
            return RawManifest("", self._files.read("index.json", "index.json", MAX_LAYOUT_INDEX_SIZE))
        except NotFoundError:
            return Index(()).to_raw()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Create the layout if it does not exist, and turn an OSError into an UnavailableError."""
        try:
            (self.folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if any((self.folder / name).is_symlink() for name in ("blobs", "blobs/sha256")):
                raise UnavailableError(f"writing to {self.name}: blobs/sha256 is not a directory of the layout")
            if not (self.folder / "oci-layout").exists():
                with lock_directory(self.folder):
                    replace_file(self.folder / "oci-layout", LAYOUT_FILE, _MODE)
            yield
        except OSError as error:
            raise disk_unavailable(f"writing to {self.name}", error) from error

    @contextlib.contextmanager
    def _partial_file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """Create a partial file that is locked while it is written; remove those of killed processes."""
        blobs = self.folder / "blobs" / "sha256"
        with lock_directory(self.folder):
            for stale in blobs.glob(f"{_PARTIAL}*"):
                _remove_if_unlocked(stale)
            descriptor, name = tempfile.mkstemp(prefix=_PARTIAL, dir=blobs)
            lock(descriptor, Path(name))
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def tags_of(index: Index) -> list[str]:
    """Return the tags in the index.json of a layout, sorted."""
    return sorted({item.annotations.get(REF_NAME, "") for item in index.manifests} - {""})


def digests_of(index: Index, tags: Sequence[str] | None) -> dict[str, Digest]:
    """Return the digests of these tags (None: of all) in a layout's index.json; of several images, the first one's."""
    entries = [(item.annotations.get(REF_NAME, ""), item.digest) for item in index.manifests]
    return {tag: digest for tag, digest in reversed(entries) if (tag in tags if tags is not None else tag)}


def find_manifest(index: Index, reference: str, name: str) -> Descriptor:
    """Return the entry of a tag in the index.json of a layout; the empty tag stands for the only image.

    Raises NotFoundError, UsageError if there are several images and no tag is given.
    """
    tags = tags_of(index)
    hint = f"available tags: {', '.join(tags[:8])}{', …' if len(tags) > 8 else ''}" if tags else "it has no tags"
    found = [item for item in index.manifests if not reference or item.annotations.get(REF_NAME) == reference]
    if not found:
        raise NotFoundError(f"{name}: image {reference} not found" if reference else f"{name}: has no image", hint=hint)
    if not reference and len({item.digest for item in found}) > 1:
        raise UsageError(f"{name}: has several images, and no tag is given", hint=hint)
    return found[0]


def blob_path(digest: Digest) -> str:
    """Return the path of a blob in a layout."""
    return f"blobs/sha256/{digest.hex}"


def _remove_if_unlocked(partial: Path) -> None:
    # NFS locks only files that are open for writing.
    with (
        contextlib.suppress(OSError),
        os.fdopen(os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "r+b") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink(missing_ok=True)
