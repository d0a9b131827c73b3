"""Which file goes into which layer: a pure function of the file list and the limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from llmstack.carried_image.file_index import ROOT, part_path
from llmstack.errors import UsageError
from llmstack.hf.snapshot import HubFile
from llmstack.oci import tar_writer
from llmstack.reporting import human_size

MiB = 1024 * 1024

# Docker stops at 125 layers; a few are left for whoever builds on a carried image.
MAX_LAYERS = 120
# About what a header and the rest of the last block take in a tar.
_TAR_ROOM = 1024
# What a part's header takes at most, a PAX one for 8 GiB and more, and the end of the tar.
_PART_ROOM = 3 * tar_writer.BLOCK + len(tar_writer.END)


@dataclass(frozen=True, slots=True)
class Limits:
    """What shapes a plan; `large` and `bundle` are bytes.

    A file of `large` bytes or more gets a layer of its own. Smaller ones are bundled into layers of about `bundle`.
    There are at most `layers` data layers, none larger than `layer_size` (None: as large as it comes). With
    `split_large` a file that is larger is carried in parts.
    """

    large: int = 16 * MiB
    bundle: int = 64 * MiB
    layers: int = MAX_LAYERS - 2
    layer_size: int | None = None
    split_large: bool = False


@dataclass(frozen=True)
class PlannedLayer:
    """One data layer: its files in the order of the tar."""

    files: tuple[HubFile, ...]

    @property
    def content(self) -> tuple[tuple[str, str], ...]:
        """What tells whether another layer holds the same: path and oid of each file, in order."""
        return tuple((file.path, file.oid) for file in self.files)

    @property
    def is_single(self) -> bool:
        """Tell whether the layer holds just one file."""
        return len(self.files) == 1

    @property
    def name(self) -> str:
        """What it is called in front of people."""
        return self.files[0].path if self.is_single else f"{len(self.files)} files, {self.files[0].path} …"

    @property
    def tar_files(self) -> list[tar_writer.TarFile]:
        """The files as they lie in the tar."""
        return [tar_writer.TarFile(f"{ROOT}/{file.path}", file.size) for file in self.files]

    @cached_property
    def _laid_out(self) -> tuple[list[int], int]:
        return tar_writer.offsets(self.tar_files)

    @property
    def offsets(self) -> list[int]:
        """Where each file's bytes begin in the layer."""
        return self._laid_out[0]

    @property
    def places(self) -> list[tuple[tuple[int, int], ...]]:
        """Where each file's bytes begin in the layers that it lies in, and how many lie there: here, in one."""
        return [((start, file.size),) for start, file in zip(self.offsets, self.files, strict=True)]

    @property
    def layer_sizes(self) -> list[int]:
        """The bytes of each layer that this makes: here, of one."""
        return [self.size]

    @property
    def size(self) -> int:
        """The layer's bytes, headers and padding included."""
        return self._laid_out[1]


@dataclass(frozen=True)
class SplitFile:
    """One file that no layer can hold: parts of `part_size` bytes, each in a layer of its own, but for the last."""

    file: HubFile
    part_size: int

    @property
    def files(self) -> tuple[HubFile, ...]:
        """The file itself."""
        return (self.file,)

    @property
    def content(self) -> tuple[tuple[str, str], ...]:
        """As of a layer: path and oid."""
        return ((self.file.path, self.file.oid),)

    @property
    def is_single(self) -> bool:
        """Tell that this holds just one file."""
        return True

    @property
    def name(self) -> str:
        """What it is called in front of people."""
        return self.file.path

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.file.size // self.part_size)

    @cached_property
    def tar_files(self) -> list[tar_writer.TarFile]:
        """The parts, as each lies in a tar of its own."""
        starts = range(0, self.file.size, self.part_size)
        sizes = [min(self.part_size, self.file.size - start) for start in starts]
        return [tar_writer.TarFile(part_path(self.file.oid, number), size) for number, size in enumerate(sizes)]

    @property
    def offsets(self) -> list[int]:
        """Where each part's bytes begin in its layer."""
        return [tar_writer.offsets([part])[0][0] for part in self.tar_files]

    @property
    def places(self) -> list[tuple[tuple[int, int], ...]]:
        """Where the file's bytes begin in each layer, and how many lie there."""
        return [tuple((start, part.size) for start, part in zip(self.offsets, self.tar_files, strict=True))]

    @property
    def layer_sizes(self) -> list[int]:
        """The bytes of each layer."""
        return [tar_writer.offsets([part])[1] for part in self.tar_files]

    @property
    def size(self) -> int:
        """The bytes of all layers."""
        return sum(self.layer_sizes)


def plan(files: Sequence[HubFile], limits: Limits) -> tuple[PlannedLayer | SplitFile, ...]:
    """Return the data layers: files in parts, a layer per large file, then bundles of small ones, each by their paths.

    Docker's classic store reuses layers only as a prefix of the image, so what changes most, the small files, comes
    last. Where that would be too many layers, neighbours are grouped. Raises UsageError when they do not fit.
    """
    ordered = sorted(files, key=lambda file: file.path.encode())
    split = _split(ordered, limits)
    in_parts = {item.file.path for item in split}
    whole = [file for file in ordered if file.path not in in_parts]
    room = limits.layers - sum(item.count for item in split)
    # Large and small files do not share layers.
    if room < len({file.size >= limits.large for file in whole}):
        raise _too_many(limits)
    layers = _plan_whole(whole, replace(limits, layers=room)) if whole else ()
    return (*split, *layers)


def _split(files: Sequence[HubFile], limits: Limits) -> tuple[SplitFile, ...]:
    """Return the files that are to be carried in parts; a part is as large as it fits into a layer, in whole blocks."""
    most = limits.layer_size
    if most is None or not limits.split_large:
        return ()
    part_size = max(1, (most - _PART_ROOM) // tar_writer.BLOCK) * tar_writer.BLOCK
    return tuple(SplitFile(file, part_size) for file in files if PlannedLayer((file,)).size > most)


def _plan_whole(ordered: Sequence[HubFile], limits: Limits) -> tuple[PlannedLayer, ...]:
    large: list[tuple[HubFile, ...]] = [(file,) for file in ordered if file.size >= limits.large]
    small = [file for file in ordered if file.size < limits.large]
    most = limits.bundle if limits.layer_size is None else limits.layer_size - len(tar_writer.END)
    bundles = _bundles(small, min(limits.bundle, most))
    if len(large) + len(bundles) > limits.layers:
        bundles = _grouped(bundles, max(_room_for_bundles(large, limits), limits.layers - len(large)))
        large = _grouped(large, limits.layers - len(bundles))
    layers = tuple(PlannedLayer(group) for group in (*large, *bundles))
    _check_sizes(layers, limits)
    return layers


def _room_for_bundles(large: Sequence[tuple[HubFile, ...]], limits: Limits) -> int:
    """Return how many layers bundles may take at least: half, where the large files fit what that leaves them."""
    if not large:
        return limits.layers
    room = limits.layers // 2
    if limits.layer_size is not None:
        sizes = [PlannedLayer(group).size for group in large]
        needed = sum(1 for _ in _cuts(sizes, limits.layer_size)) + 1
        room = min(room, limits.layers - needed)
    return max(1, room)


def _check_sizes(layers: Sequence[PlannedLayer], limits: Limits) -> None:
    """Refuse what the target will not take, before anything moves."""
    largest = max(layers, key=lambda layer: layer.size)
    if limits.layer_size is None or largest.size <= limits.layer_size:
        return
    most = human_size(limits.layer_size)
    for file in (file for layer in layers for file in layer.files):
        if PlannedLayer((file,)).size > limits.layer_size:
            raise UsageError(
                f"{file.path!r} has {human_size(file.size)}, and the target takes at most {most} in one layer",
                hint="carry it in parts with --split-large, leave it out with --exclude, "
                "or carry the repo to a registry that takes larger layers",
            )
    raise _too_many(limits)


def _too_many(limits: Limits) -> UsageError:
    most = human_size(limits.layer_size or 0)
    return UsageError(
        f"the files do not fit {limits.layers} layers of at most {most}, which is what the target takes",
        hint="leave some out with --exclude, or carry the repo to a registry that takes larger layers",
    )


def _bundles(files: Iterable[HubFile], target: int) -> list[tuple[HubFile, ...]]:
    """Cut the small files into bundles at places that the paths themselves choose.

    Cutting by size alone would move every later boundary, and so every later bundle, when one file is added. A path
    whose hash says so begins a new one when the last is a quarter full, the likelier the larger its file is, so that
    few bundles grow up to `target`, where they end anyway.
    """
    bundles: list[tuple[HubFile, ...]] = []
    current: list[HubFile] = []
    size = 0
    for file in files:
        room = file.size + _TAR_ROOM
        if current and (size + room > target or (size >= target // 4 and _is_boundary(file.path, room / (target / 4)))):
            bundles.append(tuple(current))
            current, size = [], 0
        current.append(file)
        size += room
    return [*bundles, tuple(current)] if current else bundles


def _is_boundary(path: str, share: float) -> bool:
    """Tell whether a bundle begins with this path: true for about that share of all paths, and always for the same."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4]) < share * 2**32


def _grouped(groups: Sequence[tuple[HubFile, ...]], most: int) -> list[tuple[HubFile, ...]]:
    """Join neighbours until there are at most `most` groups, keeping the largest as small as that allows."""
    if len(groups) <= most:
        return list(groups)
    sizes = [sum(file.size for file in group) for group in groups]
    low, high = max([1, *sizes]), sum(sizes) + len(groups)
    while low < high:
        middle = (low + high) // 2
        if sum(1 for _ in _cuts(sizes, middle)) + 1 <= most:
            high = middle
        else:
            low = middle + 1
    bounds = [0, *_cuts(sizes, low), len(groups)]
    return [tuple(file for group in groups[start:end] for file in group) for start, end in pairwise(bounds)]


def _cuts(sizes: Sequence[int], capacity: int) -> Iterator[int]:
    """Yield where a new group begins when groups are filled in order up to `capacity` bytes."""
    filled = 0
    for number, size in enumerate(sizes):
        if number and filled + size > capacity:
            yield number
            filled = 0
        filled += size
