"""Which bytes to fetch for which files. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmstack.carried_image.file_index import BlobRange, IndexedFile
from llmstack.carried_image.image import StoredLayer
from llmstack.oci.reference import Digest

# Between two small files of a layer lie a header and some padding; what is shorter than this is cheaper to read over
# than to ask for anew.
MAX_GAP = 64 * 1024
# Reads of several files end here, so that there is something to do for every worker.
MAX_SPAN = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to be written: where to, and what the file index says of it."""

    path: str
    file: IndexedFile

    @property
    def key(self) -> str:
        """What its part is kept under: the same only for the same bytes at the same place."""
        return f"{self.file.sha256} {self.path}"

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.size

    @property
    def offset(self) -> int:
        """Where its bytes begin in its layer, of a file that is not split."""
        return self.file.ranges[0].offset

    @property
    def end(self) -> int:
        """Where they end."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Span:
    """One read: files that follow each other in one layer, in order, none overlapping; or one file by itself."""

    files: tuple[PlannedFile, ...]

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(file.size for file in self.files)

    @property
    def extent(self) -> BlobRange:
        """Where the files of one layer lie, with what is between them."""
        first = self.files[0].offset
        return BlobRange(self.files[0].file.ranges[0].layer, first, self.files[-1].end - first)


def plan_spans(files: Iterable[PlannedFile], layers: Mapping[Digest, StoredLayer]) -> list[Span]:
    """Group files into reads, the largest first: neighbours share one, a large file has one for itself.

    All files of a compressed layer share one, for it can only be read from its beginning. A split file has one, too.
    """
    groups: dict[Digest, list[PlannedFile]] = defaultdict(list)
    spans = []
    for file in files:
        if file.file.is_split:
            spans.append(Span((file,)))
        else:
            groups[file.file.ranges[0].layer].append(file)
    for layer, group in groups.items():
        group.sort(key=lambda file: (file.offset, file.size))
        spans += [Span(tuple(run)) for run in _runs(layers[layer], group)]
    return sorted(spans, key=lambda span: -span.size)


def _runs(layer: StoredLayer, files: Sequence[PlannedFile]) -> list[list[PlannedFile]]:
    runs: list[list[PlannedFile]] = []
    for file in files:
        last = runs[-1][-1] if runs else None
        if last is None or file.offset < last.end or not (layer.compressed or _shares(runs[-1], file)):
            runs.append([file])
        else:
            runs[-1].append(file)
    return runs


def _shares(run: Sequence[PlannedFile], file: PlannedFile) -> bool:
    return file.offset - run[-1].end <= MAX_GAP and file.end - run[0].offset <= MAX_SPAN


def folded(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of paths that are one and the same where case does not count."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[path.casefold()].append(path)
    return [tuple(group) for group in groups.values() if len(group) > 1]
