"""Rootfs against a model that applies the layers from the bottom up (image-spec layer.md, "Applying")."""

from __future__ import annotations

import posixpath
import sys
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from llmstack.oci.rootfs import LinkedFile, Rootfs
from llmstack.oci.tar_reader import TarEntry

Layer = Sequence[TarEntry]
NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "a", "b", "c", "..", ".", ""]), min_size=1, max_size=4).map("/".join)
# A path of the model is a file of a layer (counted from the top), a link to a target, or a directory.
Tree = dict[str, int | str | None]


@st.composite
def entries(draw: st.DrawFn) -> TarEntry:
    path = "REPO/" + draw(NAMES)
    kind = draw(st.sampled_from(["file", "file", "directory", "link", "whiteout", "opaque"]))
    directory, name = posixpath.split(path)
    match kind:
        case "whiteout":
            return TarEntry(f"{directory}/.wh.{name}", "file", 0, "")
        case "opaque":
            return TarEntry(f"{directory}/.wh..wh..opq", "file", 0, "")
        case "directory":
            return TarEntry(path + "/", "directory", 0, "")
        case "link":
            return TarEntry(path, "symlink", 0, draw(TARGETS | TARGETS.map("/REPO/{}".format)))
        case _:
            return TarEntry(path, "file", 1, "")


def apply(layers: Sequence[Layer]) -> Tree:
    """Apply layers from the bottom up."""
    tree: Tree = {"REPO": None}
    for number, layer in enumerate(layers):
        for entry in layer:
            directory, name = posixpath.split(entry.name)
            if name == ".wh..wh..opq":
                tree = {path: value for path, value in tree.items() if not path.startswith(directory + "/")}
            elif name.startswith(".wh."):
                _remove(tree, f"{directory}/{name[4:]}")
        for entry in layer:
            path = entry.name.rstrip("/")
            if posixpath.basename(path).startswith(".wh."):
                continue
            parent = posixpath.dirname(path)
            while parent:
                tree[parent] = None
                parent = posixpath.dirname(parent)
            if entry.kind == "directory":
                tree[path] = None
            else:
                _remove(tree, path)
                tree[path] = entry.target if entry.kind == "symlink" else len(layers) - 1 - number
    return tree


def _remove(tree: Tree, path: str) -> None:
    for inner in [inner for inner in tree if inner == path or inner.startswith(path + "/")]:
        del tree[inner]


def files_of(tree: Tree) -> dict[str, int]:
    return {path.removeprefix("REPO/"): layer for path, layer in tree.items() if isinstance(layer, int)}


def resolve(tree: Tree, path: str, links: int = 0) -> str | None:
    """Return where a path leads, as the kernel finds it one name after the other; None if it does not exist."""
    done = ""
    names = path.split("/")
    while names:
        name = names.pop(0)
        if name in {"", "."}:
            continue
        if done and tree.get(done, 0) is not None:
            return None
        if name == ".." and not done:
            raise IntegrityError("out of the image")
        done = posixpath.dirname(done) if name == ".." else posixpath.join(done, name)
        if done and not (done + "/").startswith("REPO/"):
            raise IntegrityError("out of the root")
        if done and done not in tree:
            return None
        target = tree.get(done)
        if isinstance(target, str):
            links += 1
            if links > 40:
                raise IntegrityError("too many links")
            directory = "" if target.startswith("/") else posixpath.dirname(done)
            names = [*directory.split("/"), *target.split("/"), *names]
            done = ""
    if not done:
        raise IntegrityError("out of the root")
    return done


def links_of(tree: Tree) -> tuple[dict[str, str], list[str]]:
    """Return the files that are links with the files that they lead to, and the links to nothing."""
    found, dangling = {}, []
    for path in sorted(path for path, target in tree.items() if isinstance(target, str)):
        end = resolve(tree, path)
        inside = sorted(inner for inner in tree if end and inner.startswith(end + "/") and tree[inner] is not None)
        if end and isinstance(tree[end], int):
            found[path] = end
        elif not inside:
            dangling.append(path.removeprefix("REPO/"))
        elif path.startswith(f"{end}/"):
            raise IntegrityError("the directory contains the link")
        for inner in inside:
            target = resolve(tree, inner)
            if end and target and isinstance(tree[target], int):
                found[path + inner.removeprefix(end)] = target
    return {path.removeprefix("REPO/"): end.removeprefix("REPO/") for path, end in found.items()}, dangling


def merge(layers: Sequence[Layer]) -> tuple[Rootfs, dict[str, int]]:
    rootfs = Rootfs("REPO")
    found = {}
    for number, layer in enumerate(reversed(layers)):
        added = {path for entry in layer if (path := rootfs.add(entry)) is not None}
        kept = rootfs.end_layer()
        assert kept <= added
        found |= dict.fromkeys(kept, number)
    assert sorted(found) == rootfs.files
    return rootfs, found


def is_valid(layer: Layer) -> bool:
    """Tell whether a layer has no path twice, and nothing below its own files."""
    paths = [entry.name.rstrip("/") for entry in layer]
    files = {entry.name for entry in layer if entry.kind != "directory" and ".wh." not in entry.name}
    return len(paths) == len(set(paths)) and not any(path.startswith(file + "/") for path in paths for file in files)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.lists(entries(), max_size=6).filter(is_valid), max_size=4))
def test_merging_from_the_top_is_applying_from_the_bottom(layers):
    rootfs, found = merge(layers)
    tree = apply(layers)
    assert found == files_of(tree)
    try:
        expected = links_of(tree)
    except IntegrityError:
        with pytest.raises(IntegrityError):
            list(rootfs.links())
        return
    links = {link.path: link.same_as for link in rootfs.links()}
    assert (links, rootfs.dangling) == expected


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


def calls(function: Callable[[], object]) -> int:
    """Return the number of calls of Python functions that a function makes."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("layers", [1, 36])
def test_each_hard_link_of_a_chain_is_followed_once(layers: int):
    """In one layer, or with one link of the chain per layer."""
    rootfs = Rootfs("REPO")
    chain = [TarEntry("REPO/c00", "file", 1, "")]
    chain += [TarEntry(f"REPO/c{number:02}", "hardlink", 0, f"REPO/c{number - 1:02}") for number in range(1, 37)]
    links = [TarEntry(f"REPO/link{number}", "hardlink", 0, "REPO/c36") for number in range(1000)]
    for entry in links:
        rootfs.add(entry)
    for entry in reversed(chain):
        rootfs.add(entry)
        if layers > 1:
            rootfs.end_layer()
    rootfs.end_layer()
    found: list[LinkedFile] = []
    assert calls(lambda: found.extend(rootfs.links())) < 20 * (len(chain) + len(links))
    assert {link.same_as for link in found} == {"c00"}
    assert len(found) == 1036


def test_a_chain_of_hard_links_may_be_long_but_no_circle():
    chain = [TarEntry("REPO/0", "file", 1, "")]
    chain += [TarEntry(f"REPO/{number}", "hardlink", 0, f"REPO/{number - 1}") for number in range(1, 1000)]
    assert {link.same_as for link in merged(*chain).links()} == {"0"}
    circle = [TarEntry(f"REPO/{a}", "hardlink", 0, f"REPO/{b}") for a, b in ("ab", "bc", "ca")]
    with pytest.raises(IntegrityError, match="'REPO/a': a hard link to it does not lead to a file"):
        list(merged(*circle).links())
