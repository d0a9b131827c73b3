"""Layout as a BlobStore: complete or absent whatever happens to its writers, and compatible with skopeo."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.layout import REF_NAME, Layout, find_manifest, tags_of
from llmstack.oci.reference import Digest
from llmstack.oci.spec import CONFIG, LAYER_TAR, MAX_MANIFEST_SIZE, Descriptor, Index, Manifest
from llmstack.oci.store import copy_blob, read_verified, write_bytes
from tests.support.disk import FragileDisk
from tests.support.process import need

DATA = os.urandom(2_500_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(DATA), len(DATA))
MISSING = Descriptor(LAYER_TAR, Digest.of(b"missing"), 7)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "carried/models")


def put_image(layout: Layout, tag: str, layer: bytes = b"") -> Manifest:
    """Put an image with one layer, which is not a tar: these tests do not read it."""
    layer = layer or tag.encode()
    config_data = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [Digest.of(layer)]},
        }
    ).encode()
    write_bytes(layout, layer)
    write_bytes(layout, config_data)
    config = Descriptor(CONFIG, Digest.of(config_data), len(config_data))
    manifest = Manifest(config, (Descriptor(LAYER_TAR, Digest.of(layer), len(layer)),))
    layout.put_manifest(manifest.to_raw(), tag)
    return manifest


def parts(layout: Layout) -> list[Path]:
    return [path for path in layout.folder.rglob("*") if "part" in path.name or path.name.startswith(".")]


def test_reading_does_not_create_the_directory(layout: Layout):
    assert layout.tags() == []
    assert not layout.has_blob(BLOB.digest)
    with pytest.raises(NotFoundError):
        layout.manifest("x")
    with pytest.raises(NotFoundError):
        next(layout.read_blob(BLOB))
    assert not layout.folder.exists()


def test_blob_store_operations(layout: Layout):
    with pytest.raises(IntegrityError, match="does not match its digest"):
        layout.write_blob(lambda: [DATA[1:]], BLOB)
    assert not any((layout.folder / "blobs/sha256").iterdir())
    assert layout.write_blob(lambda: [DATA[:7], DATA[7:]], BLOB) == (BLOB.digest, BLOB.size)
    assert layout.has_blob(BLOB.digest)
    assert read_verified(layout, BLOB, len(DATA)) == DATA
    assert b"".join(layout.read_blob(BLOB, 5, 2_000_000)) == DATA[5:2_000_000]
    assert b"".join(layout.read_blob(BLOB, 9, 9)) == b""
    manifest = put_image(layout, "a")
    raw = manifest.to_raw()
    assert layout.manifest("a") == layout.manifest(raw.digest) == raw
    index = Index((raw.descriptor,)).to_raw()
    layout.put_manifest(index)
    assert layout.manifest(index.digest) == index
    assert layout.tags() == ["a"]
    put_image(layout, "b")
    put_image(layout, "a", b"another")
    assert layout.tags() == ["a", "b"]
    assert layout.manifest("a") != raw
    assert parts(layout) == []


@pytest.mark.system
def test_skopeo_reads_and_writes_layouts(layout: Layout, tmp_path: Path):
    raw = put_image(layout, "org--tiny").to_raw()
    copy = tmp_path / "copy"
    command = [need("skopeo", "skopeo"), "--insecure-policy", "copy", "--preserve-digests"]
    subprocess.run([*command, f"oci:{layout.folder}:org--tiny", f"oci:{copy}:x"], check=True, capture_output=True)
    assert Layout(copy).manifest("x") == raw
    # Images of skopeo stay when another tag is put.
    put_image(Layout(copy), "y")
    assert Layout(copy).tags() == ["x", "y"]
    subprocess.run([*command, f"oci:{copy}:x", f"oci:{tmp_path / 'again'}:z"], check=True, capture_output=True)


def test_an_error_of_the_source_passes_through_and_leaves_no_files(layout: Layout):
    def broken() -> Iterable[bytes]:
        yield DATA
        raise IntegrityError("the source is broken")

    with pytest.raises(IntegrityError, match="the source is broken"):
        layout.write_blob(broken)
    assert parts(layout) == []
    assert not layout.has_blob(BLOB.digest)


def test_layouts_do_not_share_files(layout: Layout, tmp_path: Path):
    """Damage to one layout must not be damage to another."""
    other = Layout(tmp_path / "other")
    write_bytes(other, DATA)
    assert layout.mount_blob(BLOB, other) is False
    assert copy_blob(BLOB, other, layout) is True
    assert (layout.folder / "blobs/sha256" / BLOB.digest.hex).stat().st_nlink == 1
    assert copy_blob(BLOB, other, layout) is False
    with pytest.raises(NotFoundError):
        copy_blob(MISSING, other, layout)
    assert parts(layout) == []


def test_a_damaged_blob_is_not_copied(layout: Layout, tmp_path: Path):
    other = Layout(tmp_path / "other")
    write_bytes(other, DATA)
    (other.folder / "blobs/sha256" / BLOB.digest.hex).write_bytes(DATA[:-1] + b"?")
    with pytest.raises(IntegrityError, match="does not match"):
        copy_blob(BLOB, other, layout)
    assert not layout.has_blob(BLOB.digest)
    assert parts(layout) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda _: b""])
def test_damage_is_found_by_reading(layout: Layout, damage):
    write_bytes(layout, DATA)
    raw = put_image(layout, "x").to_raw()
    for digest in (BLOB.digest, raw.digest):
        path = layout.folder / "blobs/sha256" / digest.hex
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError):
        read_verified(layout, BLOB, len(DATA))
    with pytest.raises(IntegrityError):
        layout.manifest("x")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"manifests": 7}', '{"manifests": [7]}', '{"manifests": [{"digest": "sha256:../x", "size": 1}]}'],
)
def test_an_invalid_index_is_an_integrity_error_and_is_not_overwritten(layout: Layout, text: str):
    put_image(layout, "x")
    (layout.folder / "index.json").write_text(text)
    with pytest.raises(IntegrityError):
        layout.tags()
    with pytest.raises(IntegrityError):
        put_image(layout, "y")
    assert (layout.folder / "index.json").read_text() == text


WRITER = """
import sys
from pathlib import Path
from llmstack.oci.layout import Layout
from tests.oci.test_layout import put_image
for number in range(30):
    put_image(Layout(Path(sys.argv[1])), f"{sys.argv[2]}-{number:02}")
"""


def test_concurrent_writers_lose_no_entries(layout: Layout):
    command = [sys.executable, "-c", WRITER, str(layout.folder)]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert layout.tags() == [f"{name}-{number:02}" for name in ("one", "two") for number in range(30)]
    assert parts(layout) == []


DYING = """
import sys
from pathlib import Path
from llmstack.oci.layout import Layout

def chunks():
    yield bytes(100_000)
    print("written", flush=True)
    sys.stdin.read()
    yield b"the end"

Layout(Path(sys.argv[1])).write_blob(chunks)
"""


@contextlib.contextmanager
def writer(layout: Layout) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has written half a blob and waits for the end of its input."""
    command = [sys.executable, "-c", DYING, str(layout.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        yield process


def test_partial_files_of_killed_writers_are_removed_and_of_running_ones_are_not(layout: Layout):
    with writer(layout) as killed, writer(layout) as alive:
        assert len(parts(layout)) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(parts(layout)) == 2
        write_bytes(layout, b"of a third")
        assert len(parts(layout)) == 1
        alive.communicate("")
        assert alive.returncode == 0
    assert parts(layout) == []
    digest = Digest.of(bytes(100_000) + b"the end")
    assert layout.has_blob(digest)


def test_a_full_disk_leaves_no_partial_files(tiny_disk: Path):
    layout = Layout(tiny_disk / "models")
    write_bytes(layout, b"small")
    with pytest.raises(UnavailableError, match="the disk is full") as raised:
        layout.write_blob(lambda: [DATA])
    assert raised.value.exit_code == 6
    assert raised.value.hint == "free some space, then rerun to resume"
    assert parts(layout) == []
    assert layout.has_blob(Digest.of(b"small"))


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300])
def test_a_path_that_cannot_be_a_directory(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("not a directory")
    layout = Layout(tmp_path / name)
    with pytest.raises(UnavailableError):
        write_bytes(layout, b"x")
    with pytest.raises(UnavailableError):
        layout.tags()


@pytest.mark.system
def test_a_disk_that_fails_while_it_is_read(tmp_path: Path):
    with FragileDisk(tmp_path / "disk") as disk:
        layout = Layout(disk.folder / "models")
        write_bytes(layout, DATA)
        chunks = layout.read_blob(BLOB)
        next(chunks)
        disk.fail()
        with pytest.raises(UnavailableError, match=r"oci:.*: blob sha256:.*: cannot be read: Input/output error"):
            list(chunks)
        with pytest.raises(UnavailableError, match=r"oci:.*: manifest sha256:.*: cannot be read: Input/output error"):
            layout.manifest(BLOB.digest)


def replaced_by_a_link(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)


def replaced_by_a_pipe(path: Path, target: Path) -> None:
    path.rename(target)
    os.mkfifo(path)


def replaced_by_a_directory(path: Path, target: Path) -> None:
    path.rename(target)
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(
            ["index.json", "blobs/sha256/{blob}"], [replaced_by_a_link, replaced_by_a_pipe, replaced_by_a_directory]
        ),
        *product(["blobs/sha256", "blobs"], [replaced_by_a_link, replaced_by_a_pipe]),
    ],
)
def test_only_regular_files_of_the_layout_are_read(layout: Layout, tmp_path: Path, name: str, damage):
    """A layout that others wrote must not make llmstack read or serve files of this machine."""
    raw = put_image(layout, "x").to_raw()
    (layer,) = Manifest.parse(raw).layers
    path = layout.folder / name.format(blob=layer.digest.hex)
    damage(path, tmp_path / "elsewhere")
    message = f"{layout.name}: .*: is not a regular file of the layout"
    if name == "index.json":
        for read in (layout.tags, layout.digests, lambda: layout.manifest("x")):
            with pytest.raises(IntegrityError, match=message):
                read()
        with pytest.raises(IntegrityError, match=message):
            put_image(layout, "y")
        return
    with pytest.raises(IntegrityError, match=message):
        list(layout.read_blob(layer))
    assert not layout.has_blob(layer.digest)
    if name != "blobs/sha256/{blob}":
        with pytest.raises(IntegrityError, match=message):
            layout.manifest("x")
        with pytest.raises(UnavailableError):
            write_bytes(layout, b"anything")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_blob_of_another_size_is_not_read(layout: Layout, change: int):
    write_bytes(layout, DATA)
    claimed = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size + change)
    with pytest.raises(IntegrityError, match=f"has {BLOB.size} bytes, not {claimed.size}"):
        next(layout.read_blob(claimed, 0, 10))


def test_an_index_larger_than_a_manifest(layout: Layout):
    """As large as 20,000 images make it."""
    raw = put_image(layout, "x").to_raw()
    many = [replace(raw.descriptor, annotations={REF_NAME: f"org--model-{number:06}"}) for number in range(20_000)]
    (layout.folder / "index.json").write_bytes(Index(tuple(many)).to_raw().data)
    assert (layout.folder / "index.json").stat().st_size > MAX_MANIFEST_SIZE
    put_image(layout, "y")
    assert len(layout.tags()) == 20_001


def test_an_index_is_not_written_beyond_its_limit(layout: Layout, monkeypatch: pytest.MonkeyPatch):
    put_image(layout, "x")
    before = (layout.folder / "index.json").read_bytes()
    monkeypatch.setattr("llmstack.oci.layout.MAX_LAYOUT_INDEX_SIZE", len(before))  # 32 MiB would take too long
    with pytest.raises(UnavailableError, match=r"index\.json would have \d+ bytes, the limit is \d+"):
        put_image(layout, "y")
    assert (layout.folder / "index.json").read_bytes() == before
    assert layout.tags() == ["x"]
    (layout.folder / "index.json").write_bytes(before + b" ")
    with pytest.raises(IntegrityError, match=r"index\.json: larger than"):
        layout.tags()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks(layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)  # no such file system can be mounted here
    with pytest.raises(UnavailableError, match="no file locks") as raised:
        put_image(layout, "a")
    assert "flock" in (raised.value.hint or "")
    assert parts(layout) == []


def test_images_by_tag(layout: Layout):
    one, two = put_image(layout, "one"), put_image(layout, "two")
    assert layout.manifest("two") == two.to_raw()
    with pytest.raises(NotFoundError) as missing:
        layout.manifest("three")
    assert missing.value.hint == "available tags: one, two"
    with pytest.raises(UsageError, match="several"):
        layout.manifest("")
    only = Index((one.to_raw().descriptor,))
    assert find_manifest(only, "", "x") == one.to_raw().descriptor
    assert tags_of(only) == []


def test_entries_and_members_of_other_programs_are_kept(layout: Layout):
    raw = put_image(layout, "a").to_raw()
    untagged = raw.descriptor
    named = Descriptor(untagged.media_type, untagged.digest, untagged.size, {REF_NAME: "b", "org.example": "kept"})
    path = layout.folder / "index.json"
    index = json.loads(Index((untagged, named), {"of": "someone"}).to_raw().data)
    # Members that llmstack does not use.
    index["artifactType"] = index["manifests"][1]["artifactType"] = "application/vnd.example"
    index["manifests"][1]["platform"] = {"architecture": "amd64", "os": "windows", "os.version": "10.0"}
    path.write_text(json.dumps(index))
    put_image(layout, "c")
    found = json.loads(path.read_text())
    assert found["annotations"] == {"of": "someone"}
    assert found["artifactType"] == "application/vnd.example"
    assert found["manifests"][1] == index["manifests"][1]
    assert [item.get("annotations") for item in found["manifests"]] == [
        None,
        {"org.example": "kept", REF_NAME: "b"},
        {REF_NAME: "c"},
    ]
