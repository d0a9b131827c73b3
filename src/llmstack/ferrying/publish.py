"""Publish an image whose data layers are in the store: write base, file index and manifests, and the tag last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FileIndex, IndexedFile
from llmstack.carried_image.index_layer import index_layer
from llmstack.errors import on_side
from llmstack.ferrying.assemble import assemble
from llmstack.ferrying.base_image import BaseImage
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.oci.reference import Digest
from llmstack.oci.spec import LAYER_TAR, Descriptor, RawManifest
from llmstack.oci.store import BlobStore, copy_blob, write_bytes


@dataclass(frozen=True, slots=True)
class CompleteLayer:
    """A planned layer or split file that is in the store, with its entries of the file index."""

    layer: PlannedLayer | SplitFile
    files: tuple[IndexedFile, ...]

    @property
    def descriptors(self) -> list[Descriptor]:
        """The layers as a manifest lists them."""
        sizes = zip(self.files[0].layers, self.layer.layer_sizes, strict=True)
        return [Descriptor(LAYER_TAR, digest, size, layer_annotations(self.layer)) for digest, size in sizes]


def layer_annotations(planned: PlannedLayer | SplitFile) -> dict[str, str]:
    """Return the annotations of a layer in the manifest."""
    if isinstance(planned, SplitFile):
        return {annotation_keys.PART_OF: planned.file.path}
    return {annotation_keys.FILEPATH: planned.files[0].path} if planned.is_single else {}


def publish(
    index: FileIndex,
    layers: Sequence[CompleteLayer],
    store: BlobStore,
    base: BaseImage,
    tag: str,
    unlisted_parts: Sequence[Descriptor] = (),
) -> RawManifest:
    """Write everything that the image consists of besides its data layers, then the tag; return the image index.

    `index` has no files yet. `unlisted_parts` are layers of the image that the file index does not list. If it raises
    LlmstackError, the tag is unchanged.
    """
    files = sorted((file for layer in layers for file in layer.files), key=lambda file: file.path.encode())
    index = replace(index, files=tuple(files))
    # Split files with equal content share their layers.
    data: dict[Digest, Descriptor] = {}
    for descriptor in (*(item for layer in layers for item in layer.descriptors), *unlisted_parts):
        data.setdefault(descriptor.digest, descriptor)
    with on_side("destination"):
        if base.source:
            for blob in {layer.digest: layer for entry in base.platforms for layer in entry.layers}.values():
                copy_blob(blob, base.source, store)
        image = assemble(index, base, [*data.values(), _write_index(index, store)])
        for config in image.configs:
            write_bytes(store, config)
        for manifest in image.manifests:
            store.put_manifest(manifest)
        store.put_manifest(image.index, tag)
    return image.index


def _write_index(index: FileIndex, store: BlobStore) -> Descriptor:
    length = sum(map(len, index.chunks()))
    digest, size = store.write_blob(lambda: index_layer(index, length, index.chunks()))
    return Descriptor(LAYER_TAR, digest, size, {annotation_keys.LAYER: "index"})
