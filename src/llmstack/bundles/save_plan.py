"""What a bundle will hold: its contents, and the blobs to write; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmstack.bundles.document import BundledImage, Contents, Order, StoredBlob
from llmstack.bundles.found_images import FoundImage
from llmstack.bundles.known_blobs import IsKnown
from llmstack.oci.layout import LAYOUT_FILE, REF_NAME
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor, Index, canonical_json
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class BlobSource:
    """Where a blob or a manifest is read from."""

    blob: Descriptor
    reader: BlobReader
    is_manifest: bool = False


@dataclass(frozen=True, slots=True)
class SavePlan:
    """The contents of a bundle, the sources of its blobs in the order in which they are written, and its totals.

    `graph_blobs` is all that the images consist of in each repository, `sizes` the size of each image by name.
    """

    contents: Contents
    sources: Mapping[Digest, BlobSource]
    graph_blobs: tuple[StoredBlob, ...]
    sizes: Mapping[str, int]

    @property
    def bytes_to_write(self) -> int:
        """Size of all blobs in the bundle."""
        return sum(source.blob.size for source in self.sources.values())

    @property
    def bytes_presupposed(self) -> int:
        """Size of the blobs that the target must have."""
        return sum({blob.digest: blob.size for blob in self.contents.presupposed}.values())


def plan_save(
    images: Sequence[FoundImage], is_known: IsKnown, order: Order, deletions: Collection[str] = ()
) -> SavePlan:
    """Plan a bundle of images; blobs that the far side has are left out, manifests never are."""
    sources: dict[Digest, BlobSource] = {}
    for image in images:
        for manifest in image.graph.manifests:
            sources.setdefault(manifest.digest, BlobSource(manifest, image.reader, is_manifest=True))
    graph: dict[tuple[str, Digest], StoredBlob] = {}
    known: dict[tuple[str, Digest], StoredBlob] = {}
    for image in images:
        for blob in image.graph.blobs:
            key = image.repository, blob.digest
            graph[key] = StoredBlob(image.repository, blob.digest, blob.size)
            if is_known(*key):
                known[key] = graph[key]
            else:
                sources.setdefault(blob.digest, BlobSource(blob, image.reader))
    contents = Contents(
        order,
        tuple(image.bundled for image in images),
        tuple(blob for blob in known.values() if blob.digest not in sources),
        deletions=tuple(sorted(deletions)),
    )
    sizes = {image.bundled.name: image.graph.size for image in images}
    return SavePlan(contents, sources, tuple(graph.values()), sizes)


def plan_missing(blobs: Iterable[tuple[StoredBlob, BlobReader]], order: Order) -> SavePlan:
    """Plan a bundle of the blobs that a target lacks."""
    found = list(blobs)
    sources = {blob.digest: BlobSource(Descriptor("", blob.digest, blob.size), reader) for blob, reader in found}
    return SavePlan(Contents(order, (), blobs=tuple(blob for blob, _ in found)), sources, (), {})


def layout_files(images: Sequence[BundledImage]) -> dict[str, bytes]:
    """Return the files that make the blobs of a bundle an OCI layout.

    The names are tags for models, and for datasets unless a model has the same tag; else `REPOSITORY/TAG`.
    """
    models = {image.tag for image in images if image.repository == "models"}
    entries = []
    for image in images:
        name = image.tag or ""
        plain = image.repository == "models" or (image.repository == "datasets" and name not in models)
        if name and not plain:
            name = f"{image.repository}/{name}"
        annotations = {REF_NAME: name} if name else {}
        entries.append(Descriptor(image.manifest.media_type, image.manifest.digest, image.manifest.size, annotations))
    index = canonical_json({key: value for key, value in Index(tuple(entries)).to_raw().json().items() if value})
    return {"oci-layout": LAYOUT_FILE, "index.json": index}
