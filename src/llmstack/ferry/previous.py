"""What earlier images of a repo hold already, so that no byte of it moves twice."""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmstack.carried.fileindex import INDEX_PATH, MAX_INDEX_SIZE, FileIndex, IndexedFile
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.ferry.assemble import LAYER_ANNOTATION
from llmstack.ferry.plan import PlannedLayer
from llmstack.oci.reference import Digest
from llmstack.oci.spec import INDEX_TYPES, Index, Manifest
from llmstack.oci.store import BlobReader, read_verified


@dataclass(frozen=True, slots=True)
class Earlier:
    """A carried image that is there already: its digest, and its file index."""

    digest: Digest
    index: FileIndex


def read_earlier(store: BlobReader, tag: str) -> Earlier | None:
    """Return the carried image under `tag`; None where there is none, or one that this version cannot build upon."""
    try:
        document = store.manifest(tag)
        digest = document.digest
        if document.media_type in INDEX_TYPES:
            document = store.manifest(Index.parse(document).manifests[0].digest)
        layer = Manifest.parse(document).layers[-1]
        if layer.annotations.get(LAYER_ANNOTATION) != "index":
            return None
        with tarfile.open(fileobj=io.BytesIO(read_verified(store, layer, MAX_INDEX_SIZE))) as archive:
            file = archive.extractfile(INDEX_PATH)
            return Earlier(digest, FileIndex.parse(file.read())) if file else None
    except (NotFoundError, IntegrityError, IndexError, KeyError, tarfile.TarError):
        # Whatever it is, it is not in our way: a whole image is going to replace it.
        return None


class HeldLayers:
    """The layers of earlier images of a repo, found by what they hold: path and oid of each file, in order."""

    def __init__(self, earlier: Iterable[Earlier]) -> None:
        self._layers: dict[tuple[tuple[str, str], ...], tuple[IndexedFile, ...]] = {}
        for image in earlier:
            files: dict[Digest, list[IndexedFile]] = defaultdict(list)
            for file in image.index.files:
                files[file.layer].append(file)
            for group in files.values():
                group.sort(key=lambda file: file.offset)
                self._layers[tuple((file.path, file.oid) for file in group)] = tuple(group)

    def find(self, layer: PlannedLayer) -> tuple[IndexedFile, ...] | None:
        """Return the files of an earlier layer that holds just what `layer` would, or None."""
        return self._layers.get(layer.content)
