"""Hostile images end in an IntegrityError, and no file outside the destination is created or changed."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace

import pytest
import zstandard

from llmstack.carried_image.file_index import BlobRange, FileIndex
from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import LAYER_TAR, Descriptor
from tests.extraction.support import contents, git_oid, run
from tests.support.carried import carry, put_image
from tests.support.layers import file, folder, hardlink, image, special, symlink, tar, write_index

EVIL = b"evil"
GOOD = file("REPO/good", b"good")


@pytest.fixture
def refused(tmp_path):
    """Return a function that extracts, expects an error, and checks that only `allowed` files were written."""
    (tmp_path / "precious").write_bytes(b"precious")

    def refuse(argument: str, *, error: type[Exception] = IntegrityError, allowed: tuple[str, ...] = (), **options):
        before = {path: data for path, data in contents(tmp_path).items() if not path.startswith("out/")}
        with pytest.raises(error) as caught:
            run(argument, tmp_path / "out", **options)
        after = contents(tmp_path)
        assert {path: data for path, data in after.items() if not path.startswith("out/")} == before
        assert {path.removeprefix("out/") for path in after if path.startswith("out/")} <= set(allowed)
        return str(caught.value)

    return refuse


TARS = {
    "climbs": [GOOD, file("../evil", EVIL)],
    "climbs below the root": [GOOD, file("REPO/../../evil", EVIL)],
    "climbs and returns": [GOOD, file("REPO/a/../b", EVIL)],
    "a whiteout that climbs": [GOOD, file("REPO/../.wh.evil", EVIL)],
    "a link to the host": [symlink("REPO/evil", "/etc/passwd")],
    "a link that climbs": [symlink("REPO/evil", "../../etc/passwd")],
    "a link above the root": [symlink("REPO/evil", "..")],
    "a link out and back": [GOOD, symlink("REPO/evil", "../../../REPO/good")],
    "a link to elsewhere in the image": [file("etc/passwd", b"x"), symlink("REPO/evil", "/etc/passwd")],
    "a link by a link": [symlink("REPO/a", "/etc"), symlink("REPO/evil", "a/passwd")],
    "a file through a link": [symlink("REPO/a", "/tmp"), file("REPO/a/evil", EVIL)],
    "a file through a link inside": [folder("REPO/b"), symlink("REPO/a", "b"), file("REPO/a/evil", EVIL)],
    "a file below a file": [file("REPO/a", b""), file("REPO/a/evil", EVIL)],
    "links in a circle": [symlink("REPO/a", "b"), symlink("REPO/b", "a")],
    "a link to itself": [symlink("REPO/a", "a")],
    "a link to its own directory": [file("REPO/sub/a", b""), symlink("REPO/sub/loop", ".")],
    "a hard link to the host": [hardlink("REPO/evil", "/etc/passwd")],
    "a hard link that climbs": [hardlink("REPO/evil", "../../etc/passwd")],
    "deeper than any path": [GOOD, file("REPO/" + 300 * "a/" + "evil", EVIL)],
    "longer than any path": [GOOD, file("REPO/" + 3 * ("a" * 2000 + "/") + "evil", EVIL)],
    "a hard link to nothing": [hardlink("REPO/evil", "etc/passwd")],
    "a hard link to a folder": [folder("REPO/sub"), hardlink("REPO/evil", "REPO/sub")],
    "a hard link to a link": [symlink("REPO/a", "/etc/passwd"), hardlink("REPO/evil", "REPO/a")],
    "a hard link to itself": [hardlink("REPO/evil", "REPO/evil")],
    "a device": [special("REPO/evil", tarfile.CHRTYPE)],
    "a block device": [special("REPO/evil", tarfile.BLKTYPE)],
    "a pipe": [special("REPO/evil", tarfile.FIFOTYPE)],
    "the root is a link": [symlink("REPO", "etc"), file("etc/passwd", b"x")],
    "the root is a file": [file("REPO", EVIL)],
    "the work directory": [file("REPO/.llmstack-partial/lock", EVIL)],
    "longer than the tar": [(file("REPO/evil", size=10_000)[0], EVIL)],
    "a negative size": [(file("REPO/evil", size=-512)[0], b"")],
    "a sparse file": [file("REPO/evil", EVIL, type=tarfile.GNUTYPE_SPARSE)],
    "a sparse file in a PAX header": [file("REPO/evil", EVIL, pax_headers={"GNU.sparse.major": "1"})],
    "a name with a NUL": [file("x", EVIL, pax_headers={"path": "REPO/e\0vil"})],
    "an invalid size": [file("REPO/evil", EVIL, pax_headers={"size": "1e3"})],
}


@pytest.mark.parametrize("name", TARS)
def test_hostile_tars_are_refused(refused, tmp_path, name):
    form = tarfile.GNU_FORMAT if "negative" in name else tarfile.PAX_FORMAT
    refused(image(tmp_path / "image", tar(*TARS[name], form=form)))


def test_nothing_is_written_if_a_lower_layer_is_refused(refused, tmp_path):
    refused(image(tmp_path / "image", tar(special("REPO/pipe", tarfile.FIFOTYPE)), tar(GOOD)))


@pytest.mark.parametrize(
    "data",
    [b"\x01" * 2048, b"not a tar", tar(GOOD)[:514], bytes(100) + b"x" * 1000, b"\x1f\x8b\x08garbage", b"BZh91AY"],
    ids=range(6),
)
def test_layers_that_are_not_tars_are_refused(refused, tmp_path, data):
    refused(image(tmp_path / "image", data))


def test_a_huge_pax_header_is_refused(refused, tmp_path):
    refused(image(tmp_path / "image", tar(file("REPO/a", EVIL, pax_headers={"comment": "x" * 2_000_000}))))


@pytest.mark.parametrize(
    "record", [b"9999 path=x\n", b"-1 path=x\n", b"x path=x\n", b"5 path", b"11 path x1\n", b"0 \n"]
)
def test_invalid_pax_records_are_refused(refused, tmp_path, record):
    refused(image(tmp_path / "image", tar(file("PaxHeaders/x", record, type=tarfile.XHDTYPE), GOOD)))


def test_a_tar_bomb_is_refused_by_its_declared_size(refused, tmp_path):
    head = file("REPO/bomb", size=10**16)[0].tobuf(tarfile.GNU_FORMAT)
    name = image(tmp_path / "image", head + bytes(64 * 1024 * 1024), compression="zstd")
    assert "are free" in refused(name, error=UnavailableError)


def test_data_after_the_end_of_a_tar_is_not_decompressed(tmp_path):
    """A zstd frame of 1 TiB would take minutes."""
    compressor = zstandard.ZstdCompressor(level=1)
    bomb = compressor.compress(bytes(16 * 1024 * 1024)) * 65536
    layer = compressor.compress(tar(GOOD)) + bomb
    name = image(tmp_path / "image", layer)
    run(name, tmp_path / "out")
    assert contents(tmp_path / "out") == {"good": b"good"}


def test_a_manifest_that_does_not_match_its_digest_is_refused(refused, tmp_path):
    name = image(tmp_path / "image", tar(GOOD))
    index = json.loads((tmp_path / "image/index.json").read_text())
    blob = tmp_path / "image/blobs/sha256" / index["manifests"][0]["digest"][7:]
    blob.write_bytes(blob.read_bytes() + b" ")
    assert "digest" in refused(name)


def test_a_config_that_does_not_match_its_digest_is_refused(refused, tmp_path):
    name = image(tmp_path / "image", tar(GOOD))
    for blob in (tmp_path / "image/blobs/sha256").iterdir():
        if b"rootfs" in blob.read_bytes():
            blob.write_bytes(blob.read_bytes().replace(b"linux", b"minix"))
    assert "digest" in refused(name)


def add(folder, value) -> dict[str, object]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (folder / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": "application/vnd.oci.image.index.v1+json"}


def test_deeply_nested_image_indexes_are_refused(refused, tmp_path):
    image(tmp_path / "image", tar(GOOD))
    inner = json.loads((tmp_path / "image/index.json").read_text())["manifests"][0]
    for _ in range(5):
        inner = add(tmp_path / "image", {"schemaVersion": 2, "manifests": [inner]})
    write_index(tmp_path / "image", [inner], ["nested"])
    assert "indexes are nested more than 3 deep" in refused(f"oci:{tmp_path}/image:nested")


@pytest.mark.parametrize(
    "value",
    [
        b"[]",
        b"{",
        b"[" * 100_000,
        {"schemaVersion": 1},
        {"schemaVersion": 2, "manifests": []},
        {"schemaVersion": 2, "manifests": {}},
        {"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:../../x", "size": 1}},
        {"schemaVersion": 2, "layers": [{"digest": "x"}], "config": None},
        b" " * 100_000_000,
    ],
    ids=range(9),
)
def test_invalid_manifests_are_refused(refused, tmp_path, value):
    write_index(tmp_path / "image", [add(tmp_path / "image", value)], ["t"])
    refused(f"oci:{tmp_path}/image:t")


def falsify(index: FileIndex, name: str, /, **fields) -> FileIndex:
    """Change one file of an index."""
    in_part = {name: fields.pop(name) for name in ("layer", "offset") if name in fields}
    files = [
        replace(file, ranges=(replace(file.ranges[0], **in_part),), **fields) if file.path == name else file
        for file in index.files
    ]
    return replace(index, files=tuple(files))


FALSE_ENTRIES = {
    "climbs": {"path": "../evil"},
    "climbs below": {"path": "a/../../evil"},
    "absolute": {"path": "/tmp/evil"},
    "empty": {"path": ""},
    "a NUL": {"path": "e\0vil"},
    "twice": {"path": "empty"},
    "below a file": {"path": "empty/evil"},
    "the work directory": {"path": ".llmstack-partial/x.part"},
    "beyond the layer": {"offset": 10**9},
    "negative": {"offset": -1},
    "too long": {"size": 10**12},
    "other bytes": {"offset": 0},
    "another size": {"size": 5},
    "another hash": {"sha256": "0" * 64},
    "an oid that climbs": {"oid": "../../evil"},
    "a git oid of other bytes": {"oid": "0" * 40},
    "a sha256 oid of other bytes": {"oid": "0" * 64},
    "the oid of another file": {"oid": git_oid(b"bytes")},
    "an invalid hash": {"sha256": "x"},
}


@pytest.mark.parametrize("layout", ["dir", "hf-cache"])
@pytest.mark.parametrize("name", FALSE_ENTRIES)
def test_false_file_index_entries_are_refused(refused, tmp_path, name, layout):
    store = Layout(tmp_path / "carried/models")
    files = {"config.json": b"0123456789" * 10, "empty": b"", "other": b"bytes"}
    index = falsify(carry(store, "org--model", files), "config.json", **FALSE_ENTRIES[name])
    digests = {layer for file in index.files for layer in file.layers if store.has_blob(layer)}
    put_image(store, "org--model", index, [Descriptor(LAYER_TAR, digest, _size(store, digest)) for digest in digests])
    if name == "the work directory" and layout == "hf-cache":
        # Below the snapshot directory, this name is not special.
        run("org/model", tmp_path / "out", source=f"oci:{tmp_path}/carried", layout=layout)
        return
    repo = "models--org--model/blobs/"
    written = {"empty", "other"} if layout == "dir" else {repo + git_oid(files[path]) for path in ("empty", "other")}
    refused("org/model", source=f"oci:{tmp_path}/carried", layout=layout, allowed=tuple(written))


@pytest.mark.parametrize(
    "fields",
    [
        {"repo_id": "../../evil"},
        {"repo_id": "/evil"},
        {"revision": "../../../evil"},
        {"revision": "/evil"},
        {"commit": "../evil"},
        {"repo_type": "../evil"},
    ],
    ids=str,
)
def test_hostile_names_that_become_cache_directories_are_refused(refused, tmp_path, fields):
    store = Layout(tmp_path / "carried/models")
    index = carry(store, "t", {"config.json": b"{}"})
    layer = index.files[0].layers[0]
    hostile = replace(index, **fields)
    # A tag that agrees with what the index claims.
    tag = f"{hostile.repo_id}--{hostile.revision}".removesuffix("--main").replace("/", "--", hostile.repo_id.count("/"))
    tag = tag.replace("/", "_")
    put_image(store, tag, hostile, [Descriptor(LAYER_TAR, layer, _size(store, layer))])
    # No tag agrees with an invalid repo id.
    error = UsageError if "repo_id" in fields else IntegrityError
    refused(f"oci:{tmp_path}/carried/models:{tag}", layout="hf-cache", error=error)


def test_a_file_index_larger_than_the_disk_is_refused_before_reading(refused, tmp_path):
    """Many names of the same range would be a decompression bomb."""
    store = Layout(tmp_path / "carried/models")
    index = carry(store, "org--model", {"big": b"bytes"})
    layer = index.files[0].layers[0]
    big = replace(index.files[0], size=1 << 40, ranges=(BlobRange(layer, 0, 1 << 40),))
    (store.folder / "blobs/sha256" / layer.hex).unlink()
    many = replace(index, files=tuple(replace(big, path=str(number)) for number in range(1000)))
    put_image(store, "org--model", many, [Descriptor(LAYER_TAR, layer, 1 << 40)])
    refused("org/model", source=f"oci:{tmp_path}/carried", error=UnavailableError)


def _size(store: Layout, digest: Digest) -> int:
    return (store.folder / "blobs/sha256" / digest.hex).stat().st_size
