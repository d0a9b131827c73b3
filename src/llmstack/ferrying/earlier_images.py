"""Find the layers of a repo's earlier images that the next image can reuse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmstack.carried_image.file_index import FileIndex, IndexedFile
from llmstack.carried_image.image import open_image
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.oci.reference import Digest
from llmstack.oci.spec import RawManifest
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class EarlierImage:
    """A carried image in the destination: its manifest or index, and its file index."""

    raw_manifest: RawManifest
    index: FileIndex

    @property
    def digest(self) -> Digest:
        """The image's digest."""
        return self.raw_manifest.digest


def read_earlier_image(store: BlobReader, tag: str) -> EarlierImage | None:
    """Return the carried image under `tag`, or None if there is none or this version cannot read it."""
    try:
        image = open_image(store, tag)
    except (NotFoundError, IntegrityError):
        # A complete image will replace it.
        return None
    return EarlierImage(image.raw_manifest, image.index) if image.index else None


class ReusableLayers:
    """The layers of earlier images, by their content: path and oid of each file, in order.

    A file index lists a split file only if all its parts were uploaded and the hash of the file was verified.
    """

    def __init__(self, images: Iterable[EarlierImage]) -> None:
        self._layers: dict[tuple[tuple[str, str], ...], tuple[IndexedFile, ...]] = {}
        for image in images:
            files_by_layer: dict[Digest, list[IndexedFile]] = defaultdict(list)
            for file in image.index.files:
                if file.is_split:
                    self._layers[((file.path, file.oid),)] = (file,)
                else:
                    files_by_layer[file.layers[0]].append(file)
            for files in files_by_layer.values():
                files.sort(key=lambda file: file.ranges[0].offset)
                self._layers[tuple((file.path, file.oid) for file in files)] = tuple(files)

    def find(self, planned: PlannedLayer | SplitFile) -> tuple[IndexedFile, ...] | None:
        """Return the files of earlier layers with exactly the planned content, or None."""
        files = self._layers.get(planned.content)
        # Offsets depend on the program that wrote the tar, and part sizes on the layer limit at that time.
        ranges = [tuple((part.offset, part.size) for part in file.ranges) for file in files or ()]
        return files if ranges == planned.file_ranges else None
