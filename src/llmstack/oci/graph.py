"""Everything that an image consists of: the manifests below an index, and their blobs."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.errors import IntegrityError
from llmstack.oci.spec import INDEX_TYPES, Descriptor, Index, Manifest, RawManifest
from llmstack.oci.store import BlobReader

# An index may list indexes; deeper nesting is not in use.
_MAX_NESTING = 3
_MAX_MANIFESTS = 1000


@dataclass(frozen=True, slots=True)
class ImageGraph:
    """The manifests of an image, each after those that it lists, and its configs and layers, each once."""

    manifests: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """The size of all configs and layers."""
        return sum(blob.size for blob in self.blobs)


def read_graph(reader: BlobReader, raw: RawManifest) -> ImageGraph:
    """Read the graph of a manifest or an index.

    Raises NotFoundError if a manifest is missing, IntegrityError if one is invalid or if there are too many.
    """
    manifests: dict[str, Descriptor] = {}
    blobs: dict[str, Descriptor] = {}

    def visit(current: RawManifest, depth: int) -> None:
        if current.media_type in INDEX_TYPES:
            if depth > _MAX_NESTING:
                raise IntegrityError(f"{reader.name}: index {raw.digest}: nested too deeply")
            for item in Index.parse(current).manifests:
                if item.digest not in manifests:
                    visit(reader.manifest(item.digest), depth + 1)
        else:
            manifest = Manifest.parse(current)
            for blob in (manifest.config, *manifest.layers):
                known = blobs.setdefault(blob.digest, blob)
                if known.size != blob.size:
                    raise IntegrityError(f"{reader.name}: {raw.digest}: lists {blob.digest} with two sizes")
        manifests[current.digest] = current.descriptor
        if len(manifests) > _MAX_MANIFESTS:
            raise IntegrityError(f"{reader.name}: {raw.digest}: more than {_MAX_MANIFESTS} manifests")

    visit(raw, 0)
    return ImageGraph(tuple(manifests.values()), tuple(blobs.values()))
