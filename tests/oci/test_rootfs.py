"""Merging from the top down gives what applying from the bottom up gives (image-spec layer.md, "Applying")."""

from __future__ import annotations

import posixpath
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
        offered = {path for entry in layer if (path := rootfs.add(entry)) is not None}
        kept = rootfs.end_layer()
        assert kept <= offered
        found |= dict.fromkeys(kept, number)
    assert sorted(found) == rootfs.files
    return found


def sound(layer: Layer) -> bool:
    """Tell whether a layer holds nothing twice, and nothing below its own files."""
    paths = [entry.name.rstrip("/") for entry in layer]
    files = {entry.name for entry in layer if entry.kind == "file" and ".wh." not in entry.name}
    return len(paths) == len(set(paths)) and not any(path.startswith(file + "/") for path in paths for file in files)


@given(st.lists(st.lists(entries(), max_size=5).filter(sound), max_size=4))
def test_top_down_is_bottom_up(layers):
    assert merge(layers) == apply(layers)


@given(st.text(max_size=12))
def test_no_name_leads_out(name):
    """Whatever a name is, the path that comes of it is below the root, or the name is refused."""
    rootfs = Rootfs("REPO")
    try:
        path = rootfs.add(TarEntry("REPO/" + name, "file", 0, ""))
    except IntegrityError:
        return
    assert path is None or (not path.startswith("/") and ".." not in path.split("/") and path != "")


def test_links_to_folders_do_not_multiply():
    """Links to folders of links to folders would double at every step."""
    rootfs = Rootfs("REPO")
    rootfs.add(TarEntry("REPO/0/file", "file", 0, ""))
    for number in range(1, 30):
        for name in "ab":
            rootfs.add(TarEntry(f"REPO/{number}/{name}", "symlink", 0, f"../{number - 1}"))
    rootfs.end_layer()
    assert len(list(rootfs.links())) < 200


@pytest.mark.parametrize("target", ["../../x", "/x", "..", "/", "../.."])
def test_links_that_lead_out(target):
    rootfs = Rootfs("REPO")
    rootfs.add(TarEntry("REPO/a", "symlink", 0, target))
    rootfs.end_layer()
    with pytest.raises(IntegrityError):
        list(rootfs.links())
