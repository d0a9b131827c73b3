"""Plan which bytes to fetch for which files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmstack.carried_image.file_index import BlobRange, IndexedFile
from llmstack.carried_image.image import StoredLayer
from llmstack.oci.reference import Digest

# A gap shorter than this is cheaper to read than a new request. Between small files of a layer, it is a tar header and
# padding.
MAX_GAP = 64 * 1024
# Larger groups of files are split, so that all workers have work.
MAX_GROUP = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to write: its path in the destination, and its entry in the file index."""

    path: str
    file: IndexedFile

    @property
    def key(self) -> str:
        """The key of its partial file: equal only for the same bytes and the same path."""
        return f"{self.file.sha256} {self.path}"

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.file.size

    @property
    def offset(self) -> int:
        """The start of its bytes in its layer. Not for split files."""
        return self.file.ranges[0].offset

    @property
    def end(self) -> int:
        """The end of its bytes in its layer."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class FetchGroup:
    """Files fetched with one request: consecutive files of one layer without overlaps, or a single file."""

    files: tuple[PlannedFile, ...]

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(file.size for file in self.files)

    @property
    def blob_range(self) -> BlobRange:
        """The range of the layer that holds the files and the gaps between them."""
        first = self.files[0].offset
        return BlobRange(self.files[0].file.ranges[0].layer, first, self.files[-1].end - first)


def plan_fetches(files: Iterable[PlannedFile], layers: Mapping[Digest, StoredLayer]) -> list[FetchGroup]:
    """Group files by request, the largest group first. Neighbors share a group; a large file has its own.

    All files of a compressed layer share a group, because it can only be read from the start. A split file has its own.
    """
    by_layer: dict[Digest, list[PlannedFile]] = defaultdict(list)
    groups = []
    for file in files:
        if file.file.is_split:
            groups.append(FetchGroup((file,)))
        else:
            by_layer[file.file.ranges[0].layer].append(file)
    for layer, layer_files in by_layer.items():
        layer_files.sort(key=lambda file: (file.offset, file.size))
        groups += [FetchGroup(tuple(group)) for group in _split_layer(layers[layer], layer_files)]
    return sorted(groups, key=lambda group: -group.size)


def _split_layer(layer: StoredLayer, files: Sequence[PlannedFile]) -> list[list[PlannedFile]]:
    groups: list[list[PlannedFile]] = []
    for file in files:
        last = groups[-1][-1] if groups else None
        if last is None or file.offset < last.end or not (layer.compressed or _is_neighbor(groups[-1], file)):
            groups.append([file])
        else:
            groups[-1].append(file)
    return groups


def _is_neighbor(group: Sequence[PlannedFile], file: PlannedFile) -> bool:
    return file.offset - group[-1].end <= MAX_GAP and file.end - group[0].offset <= MAX_GROUP


def case_conflicts(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of paths that are equal if case is ignored."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[path.casefold()].append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]
