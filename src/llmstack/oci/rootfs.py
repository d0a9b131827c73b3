"""The file system of an image: which files its layers leave in one directory (image-spec layer.md, "Applying").

No IO. Entries are added from the top layer down while the tars are read, so that no file is written that a higher
layer hides. Links are resolved after the last layer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmstack.errors import IntegrityError
from llmstack.oci.tar_reader import EntryKind, TarEntry, clean_path

WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
# The limit of Linux (path_resolution(7)).
_MAX_LINKS = 40
# Links to directories may add this many files, and more to images with more entries.
_MAX_LINKED = 10_000
_LINKED_PER_ENTRY = 4
# A long name may create many directories; of all names together, only these many.
_MAX_NODES = 100_000
_NODES_PER_ENTRY = 8


@dataclass(frozen=True, slots=True)
class Content:
    """Where the bytes of a file are: the number of the layer, counted from the top, and the path in the image."""

    layer: int
    path: str


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """A link to a file: its path below the root, and the content that it stands for.

    `same_as` is the path below the root of the file with that content; None if the merged image does not have it.
    """

    path: str
    content: Content
    same_as: str | None


@dataclass(frozen=True, slots=True)
class _Entry:
    layer: int
    kind: EntryKind
    target: str


class _Node:
    """One path. A tree of them costs what the names cost, however deep they are."""

    __slots__ = (
        "below",
        "blocked",
        "children",
        "entries",
        "exists",
        "is_directory",
        "name",
        "new",
        "opaque",
        "parent",
        "shown",
        "used_in",
    )

    def __init__(self, name: str, parent: _Node | None) -> None:
        self.name = name
        self.parent = parent
        self.children: dict[str, _Node] = {}
        # What each layer has here, and what the merged image shows: a file or a link.
        self.entries: list[_Entry] = []
        self.new: _Entry | None = None
        self.shown: _Entry | None = None
        # The number of nodes below that are shown.
        self.below = 0
        # What higher layers hide: this path and all below; all below; a file at this path.
        self.blocked = self.opaque = self.is_directory = False
        # Whether the merged image has a directory here, even an empty one.
        self.exists = False
        # The last layer with an entry below this path.
        self.used_in = -1

    @property
    def path(self) -> str:
        return "/".join(reversed([self.name, *(node.name for node in self.parents() if node.parent)]))

    def parents(self) -> Iterator[_Node]:
        node = self.parent
        while node:
            yield node
            node = node.parent

    def hides(self, kind: EntryKind) -> bool:
        if self.blocked or (kind != "directory" and self.is_directory):
            return True
        return any(node.blocked or node.opaque for node in self.parents())

    def entry_below(self, layer: int) -> _Entry | None:
        """Return the entry of `layer`, or of the next layer below that has one."""
        position = bisect_left(self.entries, layer, key=lambda entry: entry.layer)
        return self.entries[position] if position < len(self.entries) else None

    def show(self, entry: _Entry) -> None:
        self.shown = entry
        for node in self.parents():
            node.below += 1

    def shown_below(self) -> Iterator[_Node]:
        """Yield the nodes below that are shown, sorted by name; takes no time for those that are not."""
        stack = [self]
        while stack:
            node = stack.pop()
            if node.shown and node is not self:
                yield node
            if node.below:
                found = (child for child in node.children.values() if child.shown or child.below)
                stack += sorted(found, key=lambda child: child.name, reverse=True)


class Rootfs:
    """The merged state of one top-level directory (`root`) of an image.

    Add all entries of the top layer, call `end_layer`, and so on down to the lowest layer. Then read `links`.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = _Node("", None)
        self._layers = 0
        self._entries = self._nodes = 0
        self._files: list[_Node] = []
        self._links: list[_Node] = []
        self._contents: dict[tuple[_Node, int], tuple[Content, str | None]] = {}
        self._ends: dict[_Node, tuple[_Node | None, int]] = {}
        self.dangling: list[str] = []
        self._begin_layer()

    def _begin_layer(self) -> None:
        self._new: list[_Node] = []
        self._new_whiteouts: list[_Node] = []
        self._new_opaque: list[_Node] = []
        self._outside: set[str] = set()

    def add(self, entry: TarEntry) -> str | None:
        """Add the next entry of the layer; return its path below the root if it is a file that is not hidden.

        Raises IntegrityError for names that lead out of the image, and for devices and pipes under the root.
        """
        path = entry.path
        names = path.split("/")
        last = names[-1]
        if last == _OPAQUE:
            if names[0] in {self._root, _OPAQUE}:
                self._new_opaque.append(self._node(names[:-1]))
        elif last.startswith(WHITEOUT):
            # .wh..wh.* are metadata of aufs.
            names[-1] = last.removeprefix(WHITEOUT)
            if names[0] == self._root and not last.startswith(WHITEOUT * 2):
                self._new_whiteouts.append(self._node(names))
        elif names[0] == self._root:
            return self._add_inside(path, names, entry)
        elif entry.kind == "file":
            self._outside.add(path)
        return None

    def end_layer(self) -> set[str]:
        """End the layer; return the paths below the root of its files that are part of the result.

        Raises IntegrityError if the layer has an entry below one of its files or links.
        """
        directories = [parent for node in self._new for parent in self._mark_parents(node)]
        shown = [node for node in self._new if node.new and not node.hides(node.new.kind)]
        for node in directories:
            node.exists = node.exists or not node.hides("directory")
        for node in shown:
            if node.new and node.new.kind == "directory":
                node.exists = True
            elif node.new:
                node.show(node.new)
                (self._files if node.new.kind == "file" else self._links).append(node)
        for node in directories:
            node.is_directory = True
        for node in self._new:
            if node.new:
                node.entries.append(node.new)
                if node.new.kind == "directory":
                    node.is_directory = True
                else:
                    node.blocked = True
                node.new = None
        for node in self._new_whiteouts:
            node.blocked = True
        for node in self._new_opaque:
            node.opaque = True
        self._layers += 1
        self._begin_layer()
        return {self._below(node.path) for node in shown if node.shown and node.shown.kind == "file"}

    @property
    def files(self) -> list[str]:
        """The paths below the root of all regular files, sorted; without links."""
        return sorted(self._below(node.path) for node in self._files)

    def links(self) -> Iterator[LinkedFile]:
        """Yield the links to files, and the files in linked directories.

        `dangling` has the symbolic links without a target afterwards. Raises IntegrityError for links that lead out of
        the root or in a circle, and for links to directories that expand to too many files.
        """
        expanded, limit = 0, _MAX_LINKED + _LINKED_PER_ENTRY * self._entries
        for path, node in sorted((node.path, node) for node in self._links):
            end: _Node | None = node
            if node.shown and node.shown.kind == "symlink":
                end, _ = self._follow(node)
            if end and end.shown:
                yield self._linked(path, end, end.shown)
            elif end is None or not end.below:
                self.dangling.append(self._below(path))
            elif end in node.parents():
                raise IntegrityError(f"{path!r}: is a link to a directory that contains it")
            else:
                expanded += end.below
                if expanded > limit:
                    raise IntegrityError(
                        f"{path!r}: the image's links to directories lead to more than {limit:,} files"
                    )
                yield from self._linked_directory(path, end)

    def _linked_directory(self, path: str, directory: _Node) -> Iterator[LinkedFile]:
        start = len(directory.path)
        for node in directory.shown_below():
            end: _Node | None = node
            if node.shown and node.shown.kind == "symlink":
                end, _ = self._follow(node)
            if end and end.shown:
                yield self._linked(path + node.path[start:], end, end.shown)

    def _add_inside(self, path: str, names: Sequence[str], entry: TarEntry) -> str | None:
        node = self._node(names)
        hidden = node.hides(entry.kind)
        if path == self._root and entry.kind != "directory" and not hidden:
            raise IntegrityError(f"/{self._root}: must be a directory in the image, is a {entry.kind}")
        if entry.kind == "other" and not hidden:
            raise IntegrityError(f"{path!r}: only files, directories and links are supported, not devices or pipes")
        target = entry.target
        if entry.kind == "hardlink":
            target = clean_path(entry.target)
            if not self._inside(target) and target not in self._outside:
                raise IntegrityError(f"{path!r}: is a hard link to {target!r}, which the layer does not have before it")
        self._entries += 1
        if node.new is None:
            self._new.append(node)
        node.new = _Entry(self._layers, entry.kind, target)
        return self._below(path) if entry.kind == "file" and not hidden else None

    def _mark_parents(self, node: _Node) -> Iterator[_Node]:
        """Yield the parents of a node that no other entry of this layer has marked."""
        for parent in node.parents():
            if parent.used_in == self._layers:
                return
            if parent.new and parent.new.kind != "directory":
                raise IntegrityError(f"the image has entries below {parent.path!r}, which is a {parent.new.kind}")
            parent.used_in = self._layers
            yield parent

    def _node(self, names: Sequence[str]) -> _Node:
        node = self._top
        for name in names:
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = _Node(name, node)
                self._nodes += 1
            node = child
        limit = _MAX_NODES + _NODES_PER_ENTRY * self._entries
        if self._nodes > limit:
            raise IntegrityError(f"/{self._root}: more than {limit:,} directories in {self._entries:,} entries")
        return node

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._top
        for name in path.split("/"):
            node = node and node.children.get(name)
        return node

    def _inside(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _below(self, path: str) -> str:
        return path[len(self._root) + 1 :]

    def _linked(self, path: str, end: _Node, shown: _Entry) -> LinkedFile:
        content, same_as = self._content(end, shown.layer)
        return LinkedFile(self._below(path), content, same_as)

    def _content(self, node: _Node | None, layer: int) -> tuple[Content, str | None]:
        """Return the content of a file or a hard link, and LinkedFile.same_as.

        The bytes are in `layer` or in one below. The results are kept: each hard link is followed once.
        """
        path = ""
        followed: set[tuple[_Node, int]] = set()
        while True:
            entry = node.entry_below(layer) if node else None
            if node is None or entry is None:
                found: tuple[Content, str | None] = Content(layer, path), None
                break
            key = node, entry.layer
            if known := self._contents.get(key):
                found = known
                break
            if key in followed or entry.kind not in {"file", "hardlink"}:
                raise IntegrityError(f"{node.path!r}: a hard link to it does not lead to a file")
            followed.add(key)
            if entry.kind == "file":
                content = Content(entry.layer, node.path)
                found = content, self._below(content.path) if node.shown is entry else None
                break
            layer, path = entry.layer, entry.target
            node = self._find(path)
        self._contents.update(dict.fromkeys(followed, found))
        return found

    def _follow(self, link: _Node, depth: int = 0) -> tuple[_Node | None, int]:
        """Return what a symbolic link leads to, None if that does not exist, and how many links were followed."""
        known = self._ends.get(link)
        if known is None:
            if depth >= _MAX_LINKS:
                raise IntegrityError(f"{link.path!r}: too many symbolic links, or a circle of them")
            known = self._ends[link] = self._walk(link, depth + 1)
        return known

    def _walk(self, link: _Node, depth: int) -> tuple[_Node | None, int]:
        target = link.shown.target if link.shown else ""
        node = self._top if target.startswith("/") or link.parent is None else link.parent
        count = 1
        for name in target.split("/"):
            if name in {"", "."}:
                continue
            if node is not self._top and not node.exists:
                return None, count
            found = node.parent if name == ".." else node.children.get(name)
            if found is None and node is not self._top:
                return None, count
            if found is None:
                raise self._leads_out(link, target)
            node = found
            if node.shown and node.shown.kind == "symlink":
                end, more = self._follow(node, depth)
                count += more
                if count > _MAX_LINKS:
                    raise IntegrityError(f"{link.path!r}: more than {_MAX_LINKS} symbolic links")
                if end is None:
                    return None, count
                node = end
        if node is self._top:
            raise self._leads_out(link, target)
        return node, count

    def _leads_out(self, link: _Node, target: str) -> IntegrityError:
        return IntegrityError(f"{link.path!r}: is a link to {target[:200]!r}, which is outside of /{self._root}")
