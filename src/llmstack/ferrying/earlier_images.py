"""What earlier images of a repo hold already, so that no byte of it moves twice."""

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
class Earlier:
    """A carried image that is there already: what its tag names, and its file index."""

    raw_manifest: RawManifest
    index: FileIndex

    @property
    def digest(self) -> Digest:
        """The image's digest."""
        return self.raw_manifest.digest


def read_earlier(store: BlobReader, tag: str) -> Earlier | None:
    """Return the carried image under `tag`; None where there is none, or one that this version cannot build upon."""
    try:
        image = open_image(store, tag)
    except (NotFoundError, IntegrityError):
        # Whatever it is, it is not in our way: a whole image is going to replace it.
        return None
    return Earlier(image.raw_manifest, image.index) if image.index else None


class HeldLayers:
    """The layers of earlier images of a repo, found by what they hold: path and oid of each file, in order.

    An index lists a file in parts only when all of them were there and the whole had proved right.
    """

    def __init__(self, earlier: Iterable[Earlier]) -> None:
        self._layers: dict[tuple[tuple[str, str], ...], tuple[IndexedFile, ...]] = {}
        for image in earlier:
            files: dict[Digest, list[IndexedFile]] = defaultdict(list)
            for file in image.index.files:
                if file.is_split:
                    self._layers[((file.path, file.oid),)] = (file,)
                else:
                    files[file.layers[0]].append(file)
            for group in files.values():
                group.sort(key=lambda file: file.ranges[0].offset)
                self._layers[tuple((file.path, file.oid) for file in group)] = tuple(group)

    def find(self, planned: PlannedLayer | SplitFile) -> tuple[IndexedFile, ...] | None:
        """Return the files of earlier layers that hold just what is planned, or None."""
        held = self._layers.get(planned.content)
        # Where the bytes lie depends on how the tar was written, and another program may have written that one; how
        # large parts are, on what the target took then.
        places = [tuple((part.offset, part.size) for part in file.ranges) for file in held or ()]
        return held if places == planned.places else None
