"""Extracting images that have no file index: their layers' tars are merged as they stream by, the highest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from llmstack.carried_image.file_index import ROOT, Selection
from llmstack.carried_image.selection import select
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.extraction.destination import Destination, Part
from llmstack.extraction.from_index import Worker
from llmstack.net import Cancelled
from llmstack.oci.rootfs import LinkedFile, Rootfs
from llmstack.oci.tar_reader import TarReader


@dataclass(frozen=True, slots=True)
class LayerSource:
    """One layer to be read, from its beginning, as often as need be, and what to call it.

    Leaving the context raises IntegrityError if the bytes that were read are not those of the layer.
    """

    name: str
    open: Callable[[], AbstractContextManager[TarReader]]


@dataclass(frozen=True, slots=True)
class Merged:
    """What an image held: the paths of the files that were written, and their bytes; and links that lead to nothing."""

    paths: tuple[str, ...]
    size: int
    dangling: tuple[str, ...]


def extract_merged(layers: Sequence[LayerSource], selection: Selection, worker: Worker) -> Merged:
    """Write the files that lie under /REPO in the end; `layers` from the highest down.

    A layer's files get their places when the whole layer has proved right. Raises NotFoundError if there are none,
    IntegrityError, UnavailableError.
    """
    return _Merging(layers, selection, worker).run()


class _Merging:
    def __init__(self, layers: Sequence[LayerSource], selection: Selection, worker: Worker) -> None:
        self._layers = layers
        self._selection = selection
        self._destination: Destination = worker.destination
        self._worker = worker
        self._rootfs = Rootfs(ROOT)
        self._sizes: dict[str, int] = {}

    def run(self) -> Merged:
        for layer in self._layers:
            self._read(layer)
        links = list(self._rootfs.links())
        if not self._rootfs.files and not links:
            raise NotFoundError(f"the image holds no files under /{ROOT}", side="source")
        self._write_links([link for link in links if self._wanted(link.path)])
        if not self._sizes:
            raise NotFoundError("no file of the image is selected by --include and --exclude", side="source")
        return Merged(tuple(self._sizes), sum(self._sizes.values()), tuple(self._rootfs.dangling))

    def _read(self, layer: LayerSource) -> None:
        """Write a layer's files that are wanted and that no higher layer hides."""
        with self._collecting() as parts:
            with layer.open() as tar:
                for entry in tar:
                    path = self._rootfs.add(entry)
                    if path is not None and self._wanted(path):
                        self._write(tar, entry.size, path, parts)
            # A later entry of the same layer may have taken a file's place.
            for path in self._rootfs.end_layer() & parts.keys():
                self._place(parts[path], path)
                del parts[path]

    def _write_links(self, links: Sequence[LinkedFile]) -> None:
        """Make links files: the same file as one that is written already, else read from its layer once more."""
        unread: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for link in links:
            if link.same_as in self._sizes:
                self._twin(link.same_as, link.path)
            else:
                unread[link.content.layer][link.content.path].append(link.path)
        for number, contents in unread.items():
            self._read_again(self._layers[number], contents)

    def _read_again(self, layer: LayerSource, contents: dict[str, list[str]]) -> None:
        with self._collecting() as parts:
            with layer.open() as tar:
                for entry in tar:
                    paths = contents.get(entry.name.strip("/").removeprefix("./"))
                    if paths and entry.kind == "file":
                        self._write(tar, entry.size, paths[0], parts)
            for first, *others in contents.values():
                if first not in parts:
                    raise IntegrityError(f"{first!r} is a link to what {layer.name} does not hold", side="source")
                self._place(parts[first], first)
                del parts[first]
                for other in others:
                    self._twin(first, other)

    @contextmanager
    def _collecting(self) -> Iterator[dict[str, Part]]:
        """Hold the parts of one layer; those without a place in the end are thrown away."""
        parts: dict[str, Part] = {}
        try:
            yield parts
        finally:
            for part in parts.values():
                self._destination.discard(part)

    def _write(self, tar: TarReader, size: int, path: str, parts: dict[str, Part]) -> None:
        """Write the current entry into a part; its claimed size is all that may come, and must fit on the disk."""
        self._destination.require(size)
        with self._destination.part(path) as part:
            parts[path] = part
            part.restart()
            for piece in tar.content():
                if self._worker.cancel.is_set():
                    raise Cancelled("cancelled")
                part.write(piece)

    def _place(self, part: Part, path: str) -> None:
        self._destination.place(part, path)
        self._sizes[path] = part.size

    def _twin(self, existing: str, path: str) -> None:
        self._destination.twin(existing, path)
        self._sizes[path] = self._sizes[existing]

    def _wanted(self, path: str) -> bool:
        return bool(select([path], self._selection, str))
