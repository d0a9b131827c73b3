"""Plan which file goes into which layer: a pure function of the file list and the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from llmstack.carried_image.file_index import MODELS_ROOT, ROOT, part_path
from llmstack.errors import UsageError
from llmstack.hf.snapshot import HubFile
from llmstack.oci import tar_writer
from llmstack.reporting import human_size

MiB = 1024 * 1024

# Docker allows 125 layers; some are reserved for images built on a carried image.
MAX_LAYERS = 120
# About the size of a header and the padding of a file in a tar, and the size of the header of a hard link.
_TAR_OVERHEAD = 1024
_LINK_OVERHEAD = tar_writer.BLOCK
# The largest size of a part's header (PAX, for 8 GiB and more) and the end of the tar.
_PART_OVERHEAD = 3 * tar_writer.BLOCK + len(tar_writer.END)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan depends on besides the files; sizes are in bytes.

    A file of `large` bytes or more gets its own layer. Smaller files are bundled into layers of about `bundle` bytes.
    There are at most `layers` data layers, none larger than `layer_size` (None: no limit). With `split_large`, a file
    that exceeds `layer_size` is split into parts. `root` is the directory that the files are stored in.
    """

    large: int = 16 * MiB
    bundle: int = 64 * MiB
    layers: int = MAX_LAYERS - 2
    layer_size: int | None = None
    split_large: bool = False
    root: str = MODELS_ROOT

    @property
    def overhead(self) -> int:
        """About how many bytes of a layer a file needs besides its own."""
        return _TAR_OVERHEAD if self.root == ROOT else _TAR_OVERHEAD + _LINK_OVERHEAD


@dataclass(frozen=True)
class PlannedLayer:
    """One data layer: its files in the order of the tar, and the directory that they are stored in."""

    files: tuple[HubFile, ...]
    root: str

    @property
    def content(self) -> tuple[tuple[str, str], ...]:
        """Identifies the content: path and oid of each file, in order."""
        return tuple((file.path, file.oid) for file in self.files)

    @property
    def is_single(self) -> bool:
        """Whether the layer holds exactly one file."""
        return len(self.files) == 1

    @property
    def name(self) -> str:
        """The name in messages and progress."""
        return self.files[0].path if self.is_single else f"{len(self.files)} files, {self.files[0].path} …"

    @property
    def tar_files(self) -> list[tar_writer.TarFile]:
        """The entries of the tar. Files that are not stored in ROOT have a hard link there."""
        return [
            tar_writer.TarFile(
                f"{self.root}/{file.path}", file.size, () if self.root == ROOT else (f"{ROOT}/{file.path}",)
            )
            for file in self.files
        ]

    @cached_property
    def _tar_layout(self) -> tuple[list[int], int]:
        return tar_writer.offsets(self.tar_files)

    @property
    def offsets(self) -> list[int]:
        """The offset of each file's bytes in the layer."""
        return self._tar_layout[0]

    @property
    def file_ranges(self) -> list[tuple[tuple[int, int], ...]]:
        """For each file, offset and size of its bytes in each layer: here, in one layer."""
        return [((start, file.size),) for start, file in zip(self.offsets, self.files, strict=True)]

    @property
    def layer_sizes(self) -> list[int]:
        """The size of each layer: here, of one."""
        return [self.size]

    @property
    def size(self) -> int:
        """The size of the layer, with headers and padding."""
        return self._tar_layout[1]


@dataclass(frozen=True)
class SplitFile:
    """A file too large for one layer: parts of `part_size` bytes (the last may be smaller), each in its own layer."""

    file: HubFile
    part_size: int

    @property
    def files(self) -> tuple[HubFile, ...]:
        """The one file."""
        return (self.file,)

    @property
    def content(self) -> tuple[tuple[str, str], ...]:
        """Identifies the content: path and oid."""
        return ((self.file.path, self.file.oid),)

    @property
    def is_single(self) -> bool:
        """Whether this holds exactly one file."""
        return True

    @property
    def name(self) -> str:
        """The name in messages and progress."""
        return self.file.path

    @property
    def count(self) -> int:
        """The number of parts."""
        return -(-self.file.size // self.part_size)

    @cached_property
    def tar_files(self) -> list[tar_writer.TarFile]:
        """The entry of each part; each part has its own tar."""
        starts = range(0, self.file.size, self.part_size)
        sizes = [min(self.part_size, self.file.size - start) for start in starts]
        return [tar_writer.TarFile(part_path(self.file.oid, number), size) for number, size in enumerate(sizes)]

    @property
    def offsets(self) -> list[int]:
        """The offset of each part's bytes in its layer."""
        return [tar_writer.offsets([part])[0][0] for part in self.tar_files]

    @property
    def file_ranges(self) -> list[tuple[tuple[int, int], ...]]:
        """For the one file, offset and size of its bytes in each layer."""
        return [tuple((start, part.size) for start, part in zip(self.offsets, self.tar_files, strict=True))]

    @property
    def layer_sizes(self) -> list[int]:
        """The size of each layer."""
        return [tar_writer.offsets([part])[1] for part in self.tar_files]

    @property
    def size(self) -> int:
        """The size of all layers."""
        return sum(self.layer_sizes)


def plan(files: Sequence[HubFile], limits: Limits) -> tuple[PlannedLayer | SplitFile, ...]:
    """Return the data layers: split files, a layer per large file, then bundles of small files; each sorted by path.

    Docker's classic image store reuses layers only as a prefix of the image, so the small files, which change most,
    come last. If there are too many layers, neighbors are merged. Raises UsageError if the files exceed the limits.
    """
    ordered = sorted(files, key=lambda file: file.path.encode())
    split = _split(ordered, limits)
    split_paths = {item.file.path for item in split}
    unsplit = [file for file in ordered if file.path not in split_paths]
    layers_left = limits.layers - sum(item.count for item in split)
    # Large and small files do not share layers.
    if layers_left < len({file.size >= limits.large for file in unsplit}):
        raise _too_many(limits)
    layers = _plan_unsplit(unsplit, replace(limits, layers=layers_left)) if unsplit else ()
    return (*split, *layers)


def _split(files: Sequence[HubFile], limits: Limits) -> tuple[SplitFile, ...]:
    """Return the files to split; a part is the largest number of tar blocks that fits into a layer."""
    limit = limits.layer_size
    if limit is None or not limits.split_large:
        return ()
    part_size = max(1, (limit - _PART_OVERHEAD) // tar_writer.BLOCK) * tar_writer.BLOCK
    return tuple(SplitFile(file, part_size) for file in files if PlannedLayer((file,), limits.root).size > limit)


def _plan_unsplit(ordered: Sequence[HubFile], limits: Limits) -> tuple[PlannedLayer, ...]:
    large: list[tuple[HubFile, ...]] = [(file,) for file in ordered if file.size >= limits.large]
    small = [file for file in ordered if file.size < limits.large]
    limit = limits.bundle if limits.layer_size is None else limits.layer_size - len(tar_writer.END)
    bundles = _bundles(small, min(limits.bundle, limit), limits.overhead)
    if len(large) + len(bundles) > limits.layers:
        bundles = _merge(bundles, max(_bundle_limit(large, limits), limits.layers - len(large)))
        large = _merge(large, limits.layers - len(bundles))
    layers = tuple(PlannedLayer(group, limits.root) for group in (*large, *bundles))
    _check_sizes(layers, limits)
    return layers


def _bundle_limit(large: Sequence[tuple[HubFile, ...]], limits: Limits) -> int:
    """Return the number of layers reserved for bundles: half, or fewer if the large files need more."""
    if not large:
        return limits.layers
    count = limits.layers // 2
    if limits.layer_size is not None:
        sizes = [PlannedLayer(group, limits.root).size for group in large]
        needed = sum(1 for _ in _cuts(sizes, limits.layer_size)) + 1
        count = min(count, limits.layers - needed)
    return max(1, count)


def _check_sizes(layers: Sequence[PlannedLayer], limits: Limits) -> None:
    """Raise UsageError if a layer exceeds the limit of the destination."""
    largest = max(layers, key=lambda layer: layer.size)
    if limits.layer_size is None or largest.size <= limits.layer_size:
        return
    limit = human_size(limits.layer_size)
    for file in (file for layer in layers for file in layer.files):
        if PlannedLayer((file,), limits.root).size > limits.layer_size:
            raise UsageError(
                f"{file.path!r} has {human_size(file.size)}, and the destination accepts at most {limit} per layer",
                hint="split it into parts with --split-large, leave it out with --exclude, "
                "or use a registry that accepts larger layers",
            )
    raise _too_many(limits)


def _too_many(limits: Limits) -> UsageError:
    limit = human_size(limits.layer_size or 0)
    return UsageError(
        f"the files do not fit into {limits.layers} layers of at most {limit}, the limits of the destination",
        hint="leave some out with --exclude, or use a registry that accepts larger layers",
    )


def _bundles(files: Iterable[HubFile], target: int, overhead: int) -> list[tuple[HubFile, ...]]:
    """Divide the small files into bundles of at most `target` bytes, with content-defined boundaries.

    Boundaries by size alone would move all later bundles when one file is added. Instead, once a bundle is a quarter
    full, a path starts a new bundle depending on its hash. The probability grows with the file's size, so that few
    bundles reach `target`.
    """
    bundles: list[tuple[HubFile, ...]] = []
    current: list[HubFile] = []
    size = 0
    for file in files:
        needed = file.size + overhead
        if current and (
            size + needed > target or (size >= target // 4 and _is_boundary(file.path, needed / (target / 4)))
        ):
            bundles.append(tuple(current))
            current, size = [], 0
        current.append(file)
        size += needed
    return [*bundles, tuple(current)] if current else bundles


def _is_boundary(path: str, share: float) -> bool:
    """Whether a bundle starts with this path: by its hash, true for about `share` of all paths."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4]) < share * 2**32


def _merge(groups: Sequence[tuple[HubFile, ...]], limit: int) -> list[tuple[HubFile, ...]]:
    """Merge neighbors into at most `limit` groups, with the largest group as small as possible."""
    if len(groups) <= limit:
        return list(groups)
    sizes = [sum(file.size for file in group) for group in groups]
    low, high = max([1, *sizes]), sum(sizes) + len(groups)
    while low < high:
        middle = (low + high) // 2
        if sum(1 for _ in _cuts(sizes, middle)) + 1 <= limit:
            high = middle
        else:
            low = middle + 1
    bounds = [0, *_cuts(sizes, low), len(groups)]
    return [tuple(file for group in groups[start:end] for file in group) for start, end in pairwise(bounds)]


def _cuts(sizes: Sequence[int], capacity: int) -> Iterator[int]:
    """Yield the index of each new group if groups are filled in order up to `capacity` bytes."""
    filled = 0
    for number, size in enumerate(sizes):
        if number and filled + size > capacity:
            yield number
            filled = 0
        filled += size
