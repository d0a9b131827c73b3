"""Rootfs against a model that applies the layers from the bottom up (image-spec layer.md, "Applying")."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from llmstack.oci.rootfs import Rootfs
from llmstack.oci.tar_reader import TarEntry

Layer = Sequence[TarEntry]
NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@st.composite
def entries(draw: st.DrawFn) -> TarEntry:
    path = "REPO/" + draw(NAMES)
    kind = draw(st.sampled_from(["file", "file", "folder", "whiteout", "opaque"]))
    folder, name = posixpath.split(path)
    match kind:
        case "whiteout":
            return TarEntry(f"{folder}/.wh.{name}", "file", 0, "")
        case "opaque":
            return TarEntry(f"{folder}/.wh..wh..opq", "file", 0, "")
        case "folder":
            return TarEntry(path + "/", "directory", 0, "")
        case _:
            return TarEntry(path, "file", 1, "")


def apply(layers: Sequence[Layer]) -> dict[str, int]:
    """Apply layers from the bottom up; return which layer each file is from, counted from the top."""
    tree: dict[str, int | None] = {}
    for number, layer in enumerate(layers):
        for entry in layer:
            folder, name = posixpath.split(entry.name)
            if name == ".wh..wh..opq":
                tree = {path: value for path, value in tree.items() if not path.startswith(folder + "/")}
            elif name.startswith(".wh."):
                _remove(tree, f"{folder}/{name[4:]}")
        for entry in layer:
            path = entry.name.rstrip("/")
            if posixpath.basename(path).startswith(".wh."):
                continue
            parent = posixpath.dirname(path)
            while parent:
                if tree.get(parent) is not None:
                    tree[parent] = None
                parent = posixpath.dirname(parent)
            if entry.kind == "file":
                _remove(tree, path)
                tree[path] = len(layers) - 1 - number
            elif tree.get(path) is not None or path not in tree:
                tree[path] = None
    return {path.removeprefix("REPO/"): layer for path, layer in tree.items() if layer is not None}


def _remove(tree: dict[str, int | None], path: str) -> None:
    for inner in [inner for inner in tree if inner == path or inner.startswith(path + "/")]:
        del tree[inner]


def merge(layers: Sequence[Layer]) -> dict[str, int]:
    rootfs = Rootfs("REPO")
    found = {}
    for number, layer in enumerate(reversed(layers)):
        added = {path for entry in layer if (path := rootfs.add(entry)) is not None}
        kept = rootfs.end_layer()
        assert kept <= added
        found |= dict.fromkeys(kept, number)
    assert sorted(found) == rootfs.files
    return found


def is_valid(layer: Layer) -> bool:
    """Tell whether a layer has no path twice, and nothing below its own files."""
    paths = [entry.name.rstrip("/") for entry in layer]
    files = {entry.name for entry in layer if entry.kind == "file" and ".wh." not in entry.name}
    return len(paths) == len(set(paths)) and not any(path.startswith(file + "/") for path in paths for file in files)


@given(st.lists(st.lists(entries(), max_size=5).filter(is_valid), max_size=4))
def test_merging_from_the_top_is_applying_from_the_bottom(layers):
    assert merge(layers) == apply(layers)


@given(st.text(max_size=12))
def test_no_name_leads_out_of_the_root(name):
    rootfs = Rootfs("REPO")
    try:
        path = rootfs.add(TarEntry("REPO/" + name, "file", 0, ""))
    except IntegrityError:
        return
    assert path is None or (not path.startswith("/") and ".." not in path.split("/") and path != "")


def test_links_to_directories_are_not_followed_inside_of_linked_directories():
    """Followed at every step, links to directories of links would double each time."""
    rootfs = Rootfs("REPO")
    rootfs.add(TarEntry("REPO/0/file", "file", 0, ""))
    for number in range(1, 30):
        for name in "ab":
            rootfs.add(TarEntry(f"REPO/{number}/{name}", "symlink", 0, f"../{number - 1}"))
    rootfs.end_layer()
    assert len(list(rootfs.links())) < 200


@pytest.mark.parametrize("target", ["../../x", "/x", "..", "/", "../.."])
def test_links_out_of_the_root_are_refused(target):
    rootfs = Rootfs("REPO")
    rootfs.add(TarEntry("REPO/a", "symlink", 0, target))
    rootfs.end_layer()
    with pytest.raises(IntegrityError):
        list(rootfs.links())


def merged(*entries: TarEntry) -> Rootfs:
    rootfs = Rootfs("REPO")
    for entry in entries:
        rootfs.add(entry)
    rootfs.end_layer()
    return rootfs


def test_links_through_links_and_parents():
    """As the kernel resolves them: `..` is the parent of the directory that a link leads to."""
    rootfs = merged(
        TarEntry("REPO/a/b/file", "file", 1, ""),
        TarEntry("REPO/a/file", "file", 1, ""),
        TarEntry("REPO/file", "file", 1, ""),
        TarEntry("REPO/b", "symlink", 0, "a/b"),
        TarEntry("REPO/one", "symlink", 0, "b/../file"),
        TarEntry("REPO/two", "symlink", 0, "../REPO/./a//../file"),
        TarEntry("REPO/three", "symlink", 0, "none/../file"),
    )
    assert {link.path: link.same_as for link in rootfs.links()} == {
        "b/file": "a/b/file",
        "one": "a/file",
        "two": "file",
    }
    assert rootfs.dangling == ["three"]


def test_long_chains_and_circles_of_links_are_refused():
    def chain(length: int) -> list[TarEntry]:
        return [TarEntry("REPO/000", "file", 1, "")] + [
            TarEntry(f"REPO/{number:03}", "symlink", 0, f"{number - 1:03}") for number in range(1, length + 1)
        ]

    assert len(list(merged(*chain(40)).links())) == 40
    circle = [TarEntry("REPO/a", "symlink", 0, "b"), TarEntry("REPO/b", "symlink", 0, "a")]
    for entries in (chain(41), chain(2000), circle, [TarEntry("REPO/a", "symlink", 0, "a")]):
        with pytest.raises(IntegrityError, match="symbolic links"):
            list(merged(*entries).links())


def test_links_to_directories_have_a_limit():
    files = [TarEntry(f"REPO/d/{number}", "file", 1, "") for number in range(300)]
    links = [TarEntry(f"REPO/l{number}", "symlink", 0, "d") for number in range(300)]
    assert len(list(merged(*files, *links[:30]).links())) == 30 * 300
    with pytest.raises(IntegrityError, match="lead to more than 12,400 files"):
        list(merged(*files, *links).links())


def test_directories_of_long_names_have_a_limit():
    with pytest.raises(IntegrityError, match="more than 103,232 directories in 404 entries"):
        merged(*(TarEntry(f"REPO/{number}/" + "a/" * 253 + "x", "file", 1, "") for number in range(500)))


@pytest.mark.parametrize("target", ["none", "d/none", "a/" * 200])
def test_many_dangling_links_take_time_in_proportion_to_their_number(target):
    files = [TarEntry(f"REPO/d/{number}", "file", 1, "") for number in range(5000)]
    links = [TarEntry(f"REPO/l{number}", "symlink", 0, target) for number in range(5000)]
    started = time.process_time()
    rootfs = merged(*files, *links)
    assert list(rootfs.links()) == []
    assert len(rootfs.dangling) == 5000
    assert time.process_time() - started < 5
