"""Merging layers: which files lie under one folder of an image in the end (image-spec layer.md, "Applying").

Pure: layers are offered from the top down, entry by entry, as their tars stream by, so that no file is written that a
higher layer hides. What a link stands for is only known when all layers have been seen.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from llmstack.errors import IntegrityError
from llmstack.oci.tar_reader import EntryKind, TarEntry

WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# As deep as Linux follows links (path_resolution(7)).
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Content:
    """Where the bytes of a file are: the number of its layer, counted from the top, and its path in the image."""

    layer: int
    path: str


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A file under the root that is a link in the image: its path below the root, and whose bytes it has.

    `same_as` is the path below the root of the file with those bytes, None when the merged image does not show it.
    """

    path: str
    content: Content
    same_as: str | None


@dataclass(frozen=True, slots=True)
class _Node:
    kind: EntryKind
    layer: int
    target: str


class Rootfs:
    """The merged state of one folder (`root`, a name without slashes) of an image.

    Offer all entries of the top layer, call `end_layer`, and so on down to the lowest. Then ask for `links`.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._visible: dict[str, _Node] = {}
        self._layers: list[dict[str, _Node]] = []
        # What the layers above hide: a path and all below it; all below it; a file (not a folder) at the path.
        self._blocked: set[str] = set()
        self._opaque: set[str] = set()
        self._folders: set[str] = set()
        self.dangling: list[str] = []
        self._begin_layer()

    def _begin_layer(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._whiteouts: set[str] = set()
        self._new_opaque: set[str] = set()
        self._outside: set[str] = set()

    def add(self, entry: TarEntry) -> str | None:
        """Take in the layer's next entry; return its path below the root if it is a file that nothing above hides.

        Raises IntegrityError for names that climb or are absolute, and for devices and pipes under the root.
        """
        path = _clean(entry.name)
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            self._new_opaque.add(folder)
        elif name.startswith(WHITEOUT):
            # .wh..wh.* are the notes that aufs kept for itself.
            if not name.startswith(WHITEOUT * 2):
                self._whiteouts.add(posixpath.join(folder, name.removeprefix(WHITEOUT)))
        elif self._inside(path):
            return self._take(path, entry)
        elif entry.kind == "file":
            self._outside.add(path)
        return None

    def end_layer(self) -> set[str]:
        """Close the layer; return the paths below the root of its files that are part of the result.

        Raises IntegrityError if the layer holds something below one of its own files or links.
        """
        folders = {parent for path in self._nodes for parent in _parents(path)}
        for path in folders:
            node = self._nodes.get(path)
            if node and node.kind != "directory":
                raise IntegrityError(f"the image has entries below {path!r}, which is a {node.kind}")
        shown = {path: node for path, node in self._nodes.items() if not self._hidden(path, node.kind)}
        self._visible |= {path: node for path, node in shown.items() if node.kind != "directory"}
        self._layers.append(self._nodes)
        self._folders |= folders
        for path, node in self._nodes.items():
            (self._folders if node.kind == "directory" else self._blocked).add(path)
        self._blocked |= self._whiteouts
        self._opaque |= self._new_opaque
        self._begin_layer()
        return {self._below(path) for path, node in shown.items() if node.kind == "file"}

    @property
    def files(self) -> list[str]:
        """The paths below the root of all regular files, sorted; links are apart."""
        return sorted(self._below(path) for path, node in self._visible.items() if node.kind == "file")

    def links(self) -> Iterator[LinkedFile]:
        """Yield the files that are links in the image, those below linked folders included.

        Symbolic links to nothing are no files; `dangling` names them afterwards. Raises IntegrityError for links
        that lead out of the root or in a circle.
        """
        for path, node in sorted(self._visible.items()):
            if node.kind == "hardlink":
                yield self._linked(path, self._content(node.layer, path))
            elif node.kind == "symlink":
                yield from self._follow(path)

    def _take(self, path: str, entry: TarEntry) -> str | None:
        hidden = self._hidden(path, entry.kind)
        if path == self._root and entry.kind != "directory" and not hidden:
            raise IntegrityError(f"/{self._root} is not a folder in this image but a {entry.kind}")
        if entry.kind == "other" and not hidden:
            raise IntegrityError(f"{path!r} is a device, a pipe or the like, which an image of files may not hold")
        target = entry.target
        if entry.kind == "hardlink":
            target = _clean(entry.target)
            if not self._inside(target) and target not in self._outside:
                raise IntegrityError(f"{path!r} is a hard link to {target!r}, which the layer does not hold before it")
        self._nodes[path] = _Node(entry.kind, len(self._layers), target)
        return self._below(path) if entry.kind == "file" and not hidden else None

    def _hidden(self, path: str, kind: EntryKind) -> bool:
        if path in self._blocked or (kind != "directory" and path in self._folders):
            return True
        return any(parent in self._blocked or parent in self._opaque for parent in ("", *_parents(path)))

    def _inside(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _below(self, path: str) -> str:
        return path[len(self._root) + 1 :]

    def _linked(self, path: str, content: Content) -> LinkedFile:
        node = self._visible.get(content.path)
        same = node is not None and node.kind == "file" and node.layer == content.layer
        return LinkedFile(self._below(path), content, self._below(content.path) if same else None)

    def _content(self, layer: int, path: str) -> Content:
        """Return where the bytes of a hard link's end are: in its own layer, or in one below."""
        for _ in range(_MAX_LINKS):
            for number in range(layer, len(self._layers)):
                if node := self._layers[number].get(path):
                    break
            else:
                return Content(layer, path)
            if node.kind == "file":
                return Content(number, path)
            if node.kind != "hardlink" or node.target == path:
                break
            layer, path = number, node.target
            if not self._inside(path):
                return Content(layer, path)
        raise IntegrityError(f"the hard link to {path!r} does not lead to a file")

    def _follow(self, path: str) -> Iterator[LinkedFile]:
        end = self._resolve(path)
        if node := self._visible.get(end):
            yield self._linked(path, self._content(node.layer, end))
            return
        below = [inner for inner in sorted(self._visible) if inner.startswith(end + "/")]
        if path in below:
            raise IntegrityError(f"the link {path!r} leads to a folder that it lies in")
        if not below:
            self.dangling.append(self._below(path))
        for inner in below:
            source = self._resolve(inner)
            if node := self._visible.get(source):
                yield self._linked(path + inner[len(end) :], self._content(node.layer, source))

    def _resolve(self, path: str) -> str:
        """Return the path that a symbolic link stands for, all links on the way followed (path_resolution(7))."""
        rest, done = path.split("/"), ""
        for _ in range(_MAX_LINKS):
            while rest:
                done = posixpath.join(done, rest.pop(0))
                node = self._visible.get(done)
                if node and node.kind == "symlink":
                    break
            else:
                return done
            joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(done), node.target)).lstrip("/")
            climbing = _climbs(posixpath.dirname(done), node.target)
            if climbing or not self._inside(joined):
                raise IntegrityError(f"{done!r} is a link to {node.target!r}, which lies outside /{self._root}")
            rest, done = [*joined.split("/"), *rest], ""
        raise IntegrityError(f"the links from {path!r} lead in a circle")


def _clean(name: str) -> str:
    """Return an entry's path without needless parts; raises IntegrityError if it climbs or is absolute."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts:
        raise IntegrityError(f"the image holds an entry {name[:200]!r}: absolute and climbing names are not allowed")
    return "/".join(parts)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _climbs(folder: str, target: str) -> bool:
    """Tell whether a relative target climbs above the image's root on its way."""
    depth = 0 if target.startswith("/") else len(folder.split("/"))
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in {"", "."}
        if depth < 0:
            return True
    return False
