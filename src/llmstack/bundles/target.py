"""A namespace that bundles are loaded into."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Protocol

from llmstack.bundles.document import RESERVED_REPOSITORY, BundledImage, Contents, StoredBlob, split_name
from llmstack.bundles.load_plan import TargetImage
from llmstack.bundles.load_records import LoadedTags, Staging
from llmstack.bundles.repositories import Repositories
from llmstack.bundles.volume_reader import OpenedVolume, StoredPiece
from llmstack.carried_image import annotation_keys
from llmstack.carried_image.image import open_image
from llmstack.carried_image.naming import Namespace
from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, on_side
from llmstack.lists.catalogue import FILE_NAMES, CatalogueRow, record
from llmstack.net.parallel import run_all, unless_cancelled
from llmstack.oci.graph import ImageGraph
from llmstack.oci.layout import Layout
from llmstack.oci.layout_garbage import remove_unreferenced
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import Descriptor
from llmstack.oci.store import BlobReader, BlobStore
from llmstack.reporting import Reporter, Task

MakeChunks = Callable[[], Generator[bytes, None, None]]


class _Readable(Protocol):
    """Has bytes that a store can verify while it writes them."""

    def read_blob(self, blob: Descriptor, /) -> Generator[bytes, None, None]:
        """Yield a blob, not verified."""

    def damage(self, blob: Descriptor, error: LlmstackError) -> LlmstackError:
        """Return the error for a blob whose bytes were wrong when it was read."""


class BlobSupply(_Readable, Protocol):
    """Where the blobs of images come from: a bundle, or repositories."""

    def mountable(self, digest: Digest) -> BlobReader | None:
        """Return the repository that has a complete blob; None if there is none."""


class Target:
    """Reads what a namespace has, and writes blobs, manifests and tags. Errors have the side "destination"."""

    can_stage = True

    def __init__(self, namespace: Namespace, registries: Registries) -> None:
        self._repositories = Repositories(namespace, registries)
        self.record_store = self._open(RESERVED_REPOSITORY)
        self.records = LoadedTags(self.record_store)

    def image(self, repository: str) -> str:
        """Return the name of a repository."""
        return self._open(repository).name

    def name_of(self, image: BundledImage) -> str:
        """Return the name of an image."""
        separator = ":" if image.tag else "@"
        return f"{self._open(image.repository).name}{separator}{image.tag or image.manifest.digest}"

    def staging(self, contents: Contents) -> Staging:
        """Return the record of a bundle's volumes that were read already."""
        return Staging(self.record_store, contents)

    def remove_staging(self, contents: Contents) -> None:
        """Delete what was kept of a bundle's volumes; the garbage collection of a registry deletes the blobs later."""
        with on_side("destination"):
            if self.staging(contents).remove() and isinstance(self.record_store, Layout):
                remove_unreferenced(self.record_store)

    def current(self, images: Sequence[BundledImage], jobs: int, cancel: Event) -> dict[str, TargetImage]:
        """Return what the target has under the names of images."""
        with on_side("destination"):
            found = run_all(self._current, images, jobs, cancel)
        return {image.name: each for image, each in zip(images, found, strict=True)}

    def without(self, blobs: Iterable[StoredBlob], jobs: int, cancel: Event) -> list[StoredBlob]:
        """Return the blobs that the target does not have."""
        listed = list(blobs)
        with on_side("destination"):
            found = run_all(lambda blob: self._open(blob.repository).has_blob(blob.digest), listed, jobs, cancel)
        return [blob for blob, has in zip(listed, found, strict=True) if not has]

    def upload(
        self, blobs: Sequence[StoredBlob], supply: BlobSupply, jobs: int, cancel: Event, reporter: Reporter
    ) -> None:
        """Mount or upload blobs, each verified before it is complete."""
        groups: dict[Digest, list[StoredBlob]] = {}
        for blob in blobs:
            groups.setdefault(blob.digest, []).append(blob)

        def copy(group: list[StoredBlob]) -> None:
            blob = Descriptor("", group[0].digest, group[0].size)
            task = reporter.task(blob.digest.hex[:12], blob.size)
            count = unless_cancelled(task.advance, cancel)
            # A volume that came earlier may have brought it.
            source = supply.mountable(blob.digest)
            try:
                for each in group:
                    store = self._open(each.repository)
                    if source is None or not store.mount_blob(blob, source):
                        _write(store, blob, supply, count)
                        count = unless_cancelled(lambda _: None, cancel)
                    source = store
            finally:
                task.done()

        with on_side("destination"):
            run_all(copy, groups.values(), jobs, cancel)

    def stage(self, opened: OpenedVolume, jobs: int, cancel: Event, reporter: Reporter) -> None:
        """Copy the pieces of a volume into the repository of the records, each verified."""

        def copy(part: StoredPiece) -> None:
            task: Task = reporter.task(part.piece.digest.hex[:12], part.piece.length)
            try:
                if self.record_store.has_blob(part.blob.digest):
                    for chunk in opened.verified_chunks(part.piece):
                        task.advance(len(chunk))
                else:
                    count = unless_cancelled(task.advance, cancel)
                    _write(self.record_store, part.blob, part, count)
            finally:
                task.done()

        with on_side("destination"):
            run_all(copy, opened.pieces, jobs, cancel)

    def write_manifests(self, image: BundledImage, graph: ImageGraph, reader: BlobReader) -> None:
        """Write the manifests of an image by digest; a signature is found by its subject then."""
        with on_side("destination"):
            store = self._open(image.repository)
            for manifest in graph.manifests:
                store.put_manifest(reader.manifest(manifest.digest))

    def tag(self, image: BundledImage) -> None:
        """Write the tag of an image whose manifests the target has."""
        with on_side("destination"):
            store = self._open(image.repository)
            store.put_manifest(store.manifest(image.manifest.digest), image.tag)

    def existing(self, names: Sequence[str]) -> list[str]:
        """Return the names of images that exist."""
        found = []
        with on_side("destination"):
            for name in names:
                repository, tag = split_name(name)
                if self._open(repository).digests([tag]):
                    found.append(name)
        return found

    def delete(self, names: Sequence[str], reporter: Reporter) -> None:
        """Delete tags; warn about those that the registry keeps. Images with another tag stay."""
        for name in names:
            repository, tag = split_name(name)
            store = self._open(repository)
            try:
                with on_side("destination"):
                    digests = store.digests()
                    shared = [other for other, digest in digests.items() if digest == digests[tag] and other != tag]
                    deleted = not shared and store.delete_manifest(digests[tag], tag)
            except LlmstackError as error:
                reporter.warn(f"{store.name}:{tag}: cannot be deleted: {error}")
                continue
            if not deleted:
                why = f"{shared[0]} is the same image" if shared else "the registry does not allow it"
                reporter.warn(f"{store.name}:{tag}: was not deleted: {why}")

    def record_in_catalogue(self, lists: Path, images: Sequence[BundledImage]) -> None:
        """Update the catalogue with the carried images of a bundle."""
        for image in images:
            if not image.tag:
                continue
            store = self._open(image.repository)
            index = open_image(store, image.tag).index
            if index is None or image.repository != f"{index.repo_type}s":
                continue
            row = CatalogueRow(
                repo_id=index.repo_id,
                repo_type=index.repo_type,
                revision=index.revision,
                commit=index.commit,
                created=index.created,
                size=index.size,
                license=index.license,
                image=self.name_of(image),
                digest=image.manifest.digest,
                renamed_to=index.renamed_to,
                local=index.local,
            )
            record(lists / FILE_NAMES[index.repo_type], row)

    def _open(self, repository: str) -> BlobStore:
        return self._repositories.open(repository, write=True)

    def _current(self, image: BundledImage) -> TargetImage:
        store = self._open(image.repository)
        try:
            raw = store.manifest(image.tag or image.manifest.digest)
        except NotFoundError:
            return TargetImage(None)
        notes = raw.json().get("annotations")
        created = notes.get(annotation_keys.CREATED, "") if isinstance(notes, dict) else ""
        return TargetImage(raw.digest, str(created))


def _write(store: BlobStore, blob: Descriptor, supply: _Readable, count: Callable[[int], None]) -> None:
    """Write a blob. The store hashes the bytes: they are hashed once."""
    try:
        store.write_blob(_counted(lambda: supply.read_blob(blob), count), blob)
    except IntegrityError as error:
        raise supply.damage(blob, error) if error.side == "source" else error from error


def _counted(make_chunks: MakeChunks, count: Callable[[int], None]) -> MakeChunks:
    """Count the bytes of a stream; of one that is sent again, take back what was counted."""
    sent = 0

    def chunks() -> Generator[bytes, None, None]:
        nonlocal sent
        count(-sent)
        sent = 0
        with on_side("source"), closing(make_chunks()) as stream:
            for chunk in stream:
                count(len(chunk))
                sent += len(chunk)
                yield chunk

    return chunks
