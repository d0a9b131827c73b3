"""An OCI layout as a BlobStore: whole or not there at all, whoever writes or dies; skopeo is the judge."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.layout import REF_NAME, Layout, find_manifest, tags_of
from llmstack.oci.reference import Digest
from llmstack.oci.spec import CONFIG, LAYER_TAR, Descriptor, Index, Manifest
from llmstack.oci.store import copy_blob, read_verified, write_bytes
from tests.support.process import need

DATA = os.urandom(2_500_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(DATA), len(DATA))
MISSING = Descriptor(LAYER_TAR, Digest.of(b"missing"), 7)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "carried/models")


def put_image(layout: Layout, tag: str, layer: bytes = b"") -> Manifest:
    """Put an image with one layer that is no tar: nobody here looks into it."""
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


def test_reading_a_folder_that_is_not_there_makes_none(layout: Layout):
    assert layout.tags() == []
    assert not layout.has_blob(BLOB.digest)
    with pytest.raises(NotFoundError):
        layout.manifest("x")
    with pytest.raises(NotFoundError):
        next(layout.read_blob(BLOB))
    assert not layout.folder.exists()


def test_everything_a_store_does(layout: Layout):
    assert layout.write_blob(lambda: [DATA[:7], DATA[7:]]) == (BLOB.digest, BLOB.size)
    assert layout.has_blob(BLOB.digest)
    assert read_verified(layout, BLOB, len(DATA)) == DATA
    assert b"".join(layout.read_blob(BLOB, 5, 2_000_000)) == DATA[5:2_000_000]
    assert b"".join(layout.read_blob(BLOB, 9, 9)) == b""
    manifest = put_image(layout, "a")
    document = manifest.to_raw()
    assert layout.manifest("a") == layout.manifest(document.digest) == document
    index = Index((document.descriptor,)).to_raw()
    layout.put_manifest(index)
    assert layout.manifest(index.digest) == index
    assert layout.tags() == ["a"]
    put_image(layout, "b")
    put_image(layout, "a", b"another")
    assert layout.tags() == ["a", "b"]
    assert layout.manifest("a") != document
    assert parts(layout) == []


def test_skopeo_copies_what_it_reads(layout: Layout, tmp_path: Path):
    document = put_image(layout, "org--tiny").to_raw()
    copy = tmp_path / "copy"
    command = [need("skopeo", "skopeo"), "--insecure-policy", "copy", "--preserve-digests"]
    subprocess.run([*command, f"oci:{layout.folder}:org--tiny", f"oci:{copy}:x"], check=True, capture_output=True)
    assert Layout(copy).manifest("x") == document
    # And the other way: what skopeo has written is read, and kept when another tag is put.
    put_image(Layout(copy), "y")
    assert Layout(copy).tags() == ["x", "y"]
    subprocess.run([*command, f"oci:{copy}:x", f"oci:{tmp_path / 'again'}:z"], check=True, capture_output=True)


def test_what_the_source_raises_passes_through_and_leaves_nothing(layout: Layout):
    def broken() -> Iterable[bytes]:
        yield DATA
        raise IntegrityError("the source is broken")

    with pytest.raises(IntegrityError, match="the source is broken"):
        layout.write_blob(broken)
    assert parts(layout) == []
    assert not layout.has_blob(BLOB.digest)


def test_blobs_of_another_layout_are_copied_and_never_shared(layout: Layout, tmp_path: Path):
    """Damage to one folder must not be damage to both."""
    other = Layout(tmp_path / "other")
    write_bytes(other, DATA)
    assert layout.mount_blob(BLOB, other) is False
    assert copy_blob(BLOB, other, layout) is True
    assert (layout.folder / "blobs/sha256" / BLOB.digest.hex).stat().st_nlink == 1
    assert copy_blob(BLOB, other, layout) is False
    with pytest.raises(NotFoundError):
        copy_blob(MISSING, other, layout)
    assert parts(layout) == []


def test_a_damaged_blob_is_not_copied_on(layout: Layout, tmp_path: Path):
    other = Layout(tmp_path / "other")
    write_bytes(other, DATA)
    (other.folder / "blobs/sha256" / BLOB.digest.hex).write_bytes(DATA[:-1] + b"?")
    with pytest.raises(IntegrityError, match="does not match"):
        copy_blob(BLOB, other, layout)
    assert not layout.has_blob(BLOB.digest)
    assert parts(layout) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda _: b""])
def test_damage_is_found_when_it_is_read(layout: Layout, damage):
    write_bytes(layout, DATA)
    document = put_image(layout, "x").to_raw()
    for digest in (BLOB.digest, document.digest):
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
def test_an_index_that_is_none_is_an_integrity_error_and_stays(layout: Layout, text: str):
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


def test_two_processes_that_write_lose_nothing(layout: Layout):
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


def test_what_a_killed_writer_left_is_cleared_and_what_a_live_one_writes_is_not(layout: Layout):
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


def test_a_full_disk_is_told_and_nothing_half_stays(tiny_disk: Path):
    layout = Layout(tiny_disk / "models")
    write_bytes(layout, b"small")
    with pytest.raises(UnavailableError, match="the disk is full") as raised:
        layout.write_blob(lambda: [DATA])
    assert raised.value.exit_code == 6
    assert parts(layout) == []
    assert layout.has_blob(Digest.of(b"small"))


@pytest.mark.parametrize("place", ["file", "file/below", "n" * 300])
def test_a_place_where_no_folder_can_be_is_told(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("in the way")
    layout = Layout(tmp_path / place)
    with pytest.raises(UnavailableError):
        write_bytes(layout, b"x")
    with pytest.raises(UnavailableError):
        layout.tags()


def test_a_disk_that_fails_while_it_is_read(layout: Layout):
    """A page that no process has stands in for a broken block: both are EIO."""
    write_bytes(layout, b"x")
    (layout.folder / "blobs/sha256" / BLOB.digest.hex).symlink_to("/proc/self/mem")
    with pytest.raises(UnavailableError, match=r"oci:.*: blob sha256:.* cannot be read: Input/output error"):
        list(layout.read_blob(BLOB))
    with pytest.raises(UnavailableError, match=r"oci:.*: manifest sha256:.* cannot be read: Input/output error"):
        layout.manifest(BLOB.digest)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks(layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)  # no such disk can be had here: the kernel's own answer in its place
    with pytest.raises(UnavailableError, match="no file locks") as raised:
        put_image(layout, "a")
    assert "flock" in (raised.value.hint or "")
    assert parts(layout) == []


def test_tags_are_found_by_name(layout: Layout):
    one, two = put_image(layout, "one"), put_image(layout, "two")
    assert layout.manifest("two") == two.to_raw()
    with pytest.raises(NotFoundError) as missing:
        layout.manifest("three")
    assert missing.value.hint == "it holds: one, two"
    with pytest.raises(UsageError, match="several"):
        layout.manifest("")
    only = Index((one.to_raw().descriptor,))
    assert find_manifest(only, "", "x") == one.to_raw().descriptor
    assert tags_of(only) == []


def test_entries_of_others_are_kept(layout: Layout):
    """Entries without a tag, and what else an index.json says of itself."""
    document = put_image(layout, "a").to_raw()
    untagged = document.descriptor
    named = Descriptor(untagged.media_type, untagged.digest, untagged.size, {REF_NAME: "b", "org.example": "kept"})
    path = layout.folder / "index.json"
    index = json.loads(Index((untagged, named), {"of": "someone"}).to_raw().data)
    # What nobody here knows of.
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
