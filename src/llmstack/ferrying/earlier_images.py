"""Find the layers of a repo's earlier images that the next image can reuse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmstack.carried_image.file_index import FORMAT, FileIndex, IndexedFile
from llmstack.carried_image.image import open_image
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.oci.reference import Digest
from llmstack.oci.spec import RawManifest
from llmstack.oci.store import BlobReader
from llmstack.oci.tar_writer import OCTAL_LIMIT

_Content = tuple[tuple[str, str], ...]
# The directory that the files are stored in, None for a split file; and their paths and oids.
_Key = tuple[str | None, _Content]


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
        self._layers: dict[_Key, tuple[IndexedFile, ...]] = {}
        self._earlier_formats: dict[_Content, str] = {}
        for image in images:
            for files in _files_by_layer(image.index):
                content = tuple((file.path, file.oid) for file in files)
                if image.index.format == FORMAT or _has_same_headers(files):
                    root = None if files[0].is_split else image.index.root
                    self._layers[root, content] = files
                if image.index.format != FORMAT:
                    self._earlier_formats[content] = image.index.format

    def find(self, planned: PlannedLayer | SplitFile) -> tuple[IndexedFile, ...] | None:
        """Return the files of earlier layers with exactly the planned content, or None."""
        root = None if isinstance(planned, SplitFile) else planned.root
        files = self._layers.get((root, planned.content))
        # Offsets depend on the program that wrote the tar, and part sizes on the layer limit at that time.
        ranges = [tuple((part.offset, part.size) for part in file.ranges) for file in files or ()]
        return files if ranges == planned.file_ranges else None

    def earlier_format(self, planned: PlannedLayer | SplitFile) -> str | None:
        """Return the format of the earlier image with the planned content; None if there is none of another format."""
        return self._earlier_formats.get(planned.content)


def _files_by_layer(index: FileIndex) -> Iterator[tuple[IndexedFile, ...]]:
    """Yield the files of each layer in the order of the tar, and each split file alone."""
    by_layer: dict[Digest, list[IndexedFile]] = defaultdict(list)
    for file in index.files:
        if file.is_split:
            yield (file,)
        else:
            by_layer[file.layers[0]].append(file)
    for files in by_layer.values():
        yield tuple(sorted(files, key=lambda file: file.ranges[0].offset))


def _has_same_headers(files: Iterable[IndexedFile]) -> bool:
    """Tell whether formats before the current one have the same headers, apart from names: not for large sizes."""
    return all(part.size < OCTAL_LIMIT for file in files for part in file.ranges)
