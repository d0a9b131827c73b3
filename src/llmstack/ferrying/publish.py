"""Making an image of layers that are in the store: what names them is written from the bottom up, the tag last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import INDEX_PATH, FileIndex, IndexedFile
from llmstack.errors import on_side
from llmstack.ferrying.assemble import assemble
from llmstack.ferrying.base_image import Base
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.oci import tar_writer
from llmstack.oci.reference import Digest
from llmstack.oci.spec import LAYER_TAR, Descriptor, RawManifest
from llmstack.oci.store import BlobStore, copy_blob, write_bytes


@dataclass(frozen=True, slots=True)
class CompleteLayer:
    """A data layer that is in the store, whole, or all layers of a split file, and what the file index says of it."""

    layer: PlannedLayer | SplitFile
    files: tuple[IndexedFile, ...]

    @property
    def descriptors(self) -> list[Descriptor]:
        """The layers as a manifest lists them."""
        sizes = zip(self.files[0].layers, self.layer.layer_sizes, strict=True)
        return [Descriptor(LAYER_TAR, digest, size, layer_annotations(self.layer)) for digest, size in sizes]


def layer_annotations(planned: PlannedLayer | SplitFile) -> dict[str, str]:
    """Return what a manifest says of a layer of what is planned."""
    if isinstance(planned, SplitFile):
        return {annotation_keys.PART_OF: planned.file.path}
    return {annotation_keys.FILEPATH: planned.files[0].path} if planned.is_single else {}


def publish(
    head: FileIndex,
    layers: Sequence[CompleteLayer],
    store: BlobStore,
    base: Base,
    tag: str,
    others: Sequence[Descriptor] = (),
) -> RawManifest:
    """Write what makes an image of the layers: base, file index, configs, manifests, index; return the last, tagged.

    `head` is the file index without its files; `others` are layers that it does not speak of. Raises LlmstackError, and
    then the tag is what it was.
    """
    files = sorted((file for layer in layers for file in layer.files), key=lambda file: file.path.encode())
    index = replace(head, files=tuple(files))
    # Split files of the same bytes have the same layers.
    data: dict[Digest, Descriptor] = {}
    for descriptor in (*(found for layer in layers for found in layer.descriptors), *others):
        data.setdefault(descriptor.digest, descriptor)
    with on_side("destination"):
        if base.source:
            for blob in {layer.digest: layer for entry in base.platforms for layer in entry.layers}.values():
                copy_blob(blob, base.source, store)
        assembled = assemble(index, base, [*data.values(), _write_index(index, store)])
        for config in assembled.configs:
            write_bytes(store, config)
        for document in assembled.manifests:
            store.put_manifest(document)
        store.put_manifest(assembled.index, tag)
    return assembled.index


def _write_index(index: FileIndex, store: BlobStore) -> Descriptor:
    file = tar_writer.TarFile(INDEX_PATH, sum(map(len, index.chunks())))
    digest, size = store.write_blob(lambda: tar_writer.layer([file], [index.chunks()]))
    return Descriptor(LAYER_TAR, digest, size, {annotation_keys.LAYER: "index"})
