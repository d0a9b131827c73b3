"""Extract images without a file index: merge the layers' tars while they are read, the top layer first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from llmstack.carried_image.file_index import ROOT
from llmstack.carried_image.selection import Selection, select
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.extraction.from_index import ExtractContext
from llmstack.extraction.partial_file import PartialFile
from llmstack.net import Cancelled
from llmstack.oci.rootfs import LinkedFile, Rootfs
from llmstack.oci.tar_reader import TarEntry, TarReader, clean_path


@dataclass(frozen=True, slots=True)
class LayerSource:
    """A layer's name, and a function that opens its tar from the start.

    Leaving the context raises IntegrityError if the bytes do not match the layer's digest.
    """

    name: str
    open: Callable[[], AbstractContextManager[TarReader]]


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The written files' paths and total size, and the dangling symbolic links that were left out."""

    paths: tuple[str, ...]
    size: int
    dangling: tuple[str, ...]


def merge_layers(
    layers: Sequence[LayerSource], selection: Selection, context: ExtractContext, stored_in: str = ROOT
) -> MergeResult:
    """Write the files that the merged image has under /REPO. `layers` start with the top one.

    `stored_in` is the directory where the image is expected to store the files, if those in /REPO are hard links.
    Publishes files only after all layers are read and verified. Raises NotFoundError if there are no files,
    IntegrityError, UnavailableError.
    """
    return _LayerMerge(layers, selection, context, stored_in).run()


class _LayerMerge:
    def __init__(
        self, layers: Sequence[LayerSource], selection: Selection, context: ExtractContext, stored_in: str
    ) -> None:
        self._layers = layers
        self._selection = selection
        self._context = context
        self._stored_in = stored_in
        self._destination = context.destination
        self._rootfs = Rootfs(ROOT)
        self._sizes: dict[str, int] = {}
        # Files in `stored_in` with hard links in /REPO, by layer and path.
        self._targets: dict[tuple[int, str], PartialFile] = {}

    def run(self) -> MergeResult:
        with self._partial_files() as partials:
            for number, layer in enumerate(self._layers):
                self._read(number, layer, partials)
            links = list(self._rootfs.links())
            if not self._rootfs.files and not links:
                raise NotFoundError(f"the image holds no files under /{ROOT}", side="source")
            hard_links = self._read_links([link for link in links if self._is_selected(link.path)], partials)
            if not partials:
                raise NotFoundError("no file of the image is selected by --include and --exclude", side="source")
            for path in (*partials, *hard_links):
                self._destination.check_path(path)
            for path in list(partials):
                self._destination.publish(partials[path], path)
                self._sizes[path] = partials.pop(path).size
        for path, existing in hard_links.items():
            self._destination.hard_link(existing, path)
            self._sizes[path] = self._sizes[existing]
        return MergeResult(tuple(self._sizes), sum(self._sizes.values()), tuple(self._rootfs.dangling))

    def _read(self, number: int, layer: LayerSource, partials: dict[str, PartialFile]) -> None:
        """Write a layer's selected files, except those that a higher layer hides.

        Files in `stored_in` are written as well, or else the layer would have to be read again for the hard links to
        them; they are discarded if none follows.
        """
        written: dict[str, PartialFile] = {}
        targets: set[str] = set()
        try:
            with layer.open() as tar:
                for entry in tar:
                    path = self._rootfs.add(entry)
                    if path is not None and self._is_selected(path):
                        self._write(tar, entry.size, path, written)
                    elif self._may_be_target(entry):
                        self._write(tar, entry.size, _target_key(number, entry.path), written)
                    elif entry.kind == "hardlink" and entry.path.startswith(f"{ROOT}/"):
                        targets.add(clean_path(entry.target))
            # A later entry of the same layer may have replaced a file.
            for path in self._rootfs.end_layer() & written.keys():
                partials[path] = written.pop(path)
            for path in targets:
                if partial := written.pop(_target_key(number, path), None):
                    self._targets[number, path] = partial
        finally:
            for partial in written.values():
                self._destination.discard(partial)

    def _read_links(self, links: Sequence[LinkedFile], partials: dict[str, PartialFile]) -> dict[str, str]:
        """Write the content of links that no written file has; return the hard links to make, and to which files."""
        hard_links: dict[str, str] = {}
        unread: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for link in links:
            if link.same_as in partials:
                hard_links[link.path] = link.same_as
            else:
                unread[link.content.layer][link.content.path].append(link.path)
        for number, contents in unread.items():
            hard_links |= {other: first for first, *others in contents.values() for other in others}
            for content in contents.keys() & {path for layer, path in self._targets if layer == number}:
                partials[contents.pop(content)[0]] = self._targets.pop((number, content))
            if contents:
                self._read_again(self._layers[number], contents, partials)
        return hard_links

    def _read_again(self, layer: LayerSource, contents: dict[str, list[str]], partials: dict[str, PartialFile]) -> None:
        with layer.open() as tar:
            for entry in tar:
                paths = contents.get(entry.path) if entry.kind == "file" else None
                if paths:
                    self._write(tar, entry.size, paths[0], partials)
        for first, *_ in contents.values():
            if first not in partials:
                raise IntegrityError(f"{layer.name}: the target of the link {first!r} was not found", side="source")

    @contextmanager
    def _partial_files(self) -> Iterator[dict[str, PartialFile]]:
        """Collect partial files by path; discard those that were not published."""
        partials: dict[str, PartialFile] = {}
        try:
            yield partials
        finally:
            for partial in (*partials.values(), *self._targets.values()):
                self._destination.discard(partial)

    def _write(self, tar: TarReader, size: int, path: str, partials: dict[str, PartialFile]) -> None:
        """Write the current entry to a partial file. Its declared size limits its bytes, and must fit on the disk."""
        self._destination.require_space(size)
        with self._destination.partial(path) as partial:
            partials[path] = partial
            partial.restart()
            for piece in tar.content():
                if self._context.cancel.is_set():
                    raise Cancelled("cancelled")
                partial.write(piece)

    def _may_be_target(self, entry: TarEntry) -> bool:
        """Tell whether an entry is a file outside /REPO that probably has a hard link in it."""
        root, _, path = entry.path.partition("/")
        return entry.kind == "file" and root == self._stored_in != ROOT and self._is_selected(path)

    def _is_selected(self, path: str) -> bool:
        return bool(select([path], self._selection, str))


def _target_key(layer: int, path: str) -> str:
    """Return the key of the partial file of a file outside /REPO: no path below the root starts with a slash."""
    return f"/{layer}/{path}"
