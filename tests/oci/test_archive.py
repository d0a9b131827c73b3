"""Image archives and their errors. Round trips are in tests/extraction."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UsageError
from llmstack.oci.archive import DockerArchive, OciArchive
from llmstack.oci.spec import LAYER_GZIP, LAYER_TAR, Descriptor, Manifest
from llmstack.oci.store import read_verified
from tests.support.layers import file, hardlink, image, symlink, tar

LAYERS = [tar(file("REPO/a", b"a" * 3000)), tar(file("REPO/b", b"b"))]


def docker_archive(path: Path, *, links: str = "", compress: bool = False, **manifest: object) -> Path:
    """Write an archive as `docker save` 20.10 does; `links` makes the second layer a link."""
    tars = [gzip.compress(layer) if compress else layer for layer in LAYERS]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in LAYERS]
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    entries = [file("one/layer.tar", tars[0]), file("one/VERSION", b"1.0")]
    if links:
        make = {
            "symlink": symlink("two/layer.tar", "../elsewhere/layer.tar"),
            "hardlink": hardlink("two/layer.tar", "elsewhere/layer.tar"),
        }
        entries += [make[links], file("elsewhere/layer.tar", tars[1])]
    else:
        entries.append(file("two/layer.tar", tars[1]))
    listed = {"Config": "c.json", "RepoTags": ["a/b:c"], "Layers": ["one/layer.tar", "two/layer.tar"], **manifest}
    entries += [file("c.json", config), file("manifest.json", json.dumps([listed]).encode())]
    path.write_bytes(tar(*entries))
    return path


@pytest.mark.parametrize("links", ["", "symlink", "hardlink"])
def test_a_docker_archive(tmp_path, links):
    archive = DockerArchive(docker_archive(tmp_path / "x.tar", links=links))
    assert archive.tags() == ["a/b:c"]
    for name in ("", "a/b:c", "docker.io/a/b:c", "c"):
        manifest = Manifest.parse(archive.manifest(name))
        assert [layer.media_type for layer in manifest.layers] == [LAYER_TAR, LAYER_TAR]
        assert [read_verified(archive, layer, 10**6) for layer in manifest.layers] == LAYERS
    assert b"".join(archive.read_blob(manifest.layers[0], 512, 520)) == b"a" * 8
    assert archive.manifest(archive.manifest("").digest) == archive.manifest("")


def test_a_docker_archive_of_compressed_layers(tmp_path):
    archive = DockerArchive(docker_archive(tmp_path / "x.tar", compress=True))
    manifest = Manifest.parse(archive.manifest(""))
    assert [layer.media_type for layer in manifest.layers] == [LAYER_GZIP, LAYER_GZIP]
    assert all(read_verified(archive, layer, 10**6)[:2] == b"\x1f\x8b" for layer in manifest.layers)


@pytest.mark.parametrize(
    "manifest",
    [
        {"Layers": ["one/layer.tar"]},
        {"Layers": ["none", "one/layer.tar"]},
        {"Config": "../c"},
        {"Layers": 5},
        {"Layers": None},
    ],
    ids=str,
)
def test_docker_archives_with_a_false_manifest_json(tmp_path, manifest):
    with pytest.raises(IntegrityError):
        DockerArchive(docker_archive(tmp_path / "x.tar", **manifest)).manifest("")


def test_missing_blobs(tmp_path):
    archive = DockerArchive(docker_archive(tmp_path / "x.tar"))
    manifest = Manifest.parse(archive.manifest(""))
    with pytest.raises(NotFoundError):
        next(archive.read_blob(Descriptor(LAYER_TAR, archive.manifest("").digest, 1)))
    with pytest.raises(IntegrityError, match="bytes, not 1"):
        next(archive.read_blob(Descriptor(LAYER_TAR, manifest.layers[0].digest, 1)))


@pytest.mark.parametrize("kind", [DockerArchive, OciArchive])
@pytest.mark.parametrize(
    ("compress", "program"),
    [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")],
)
def test_compressed_archives(tmp_path, kind, compress, program):
    path = tmp_path / "x.tar.z"
    path.write_bytes(compress(docker_archive(tmp_path / "x.tar").read_bytes()))
    with pytest.raises(UsageError) as caught:
        kind(path).manifest("")
    assert program in (caught.value.hint or "")


def test_the_wrong_transport(tmp_path):
    docker = docker_archive(tmp_path / "docker.tar")
    with pytest.raises(UsageError) as caught:
        OciArchive(docker).manifest("")
    assert "docker-archive:" in (caught.value.hint or "")
    image(tmp_path / "layout", *LAYERS)
    with tarfile.open(tmp_path / "oci.tar", "w") as archive:
        archive.add(tmp_path / "layout", ".")
    with pytest.raises(UsageError) as caught:
        DockerArchive(tmp_path / "oci.tar").manifest("")
    assert "oci-archive:" in (caught.value.hint or "")
    manifest = Manifest.parse(OciArchive(tmp_path / "oci.tar").manifest("latest"))
    assert [read_verified(OciArchive(tmp_path / "oci.tar"), layer, 10**6) for layer in manifest.layers] == LAYERS


@pytest.mark.parametrize("kind", [DockerArchive, OciArchive])
def test_files_that_are_not_archives(tmp_path, kind):
    (tmp_path / "text").write_bytes(b"not a tar at all" * 100)
    (tmp_path / "empty").write_bytes(b"")
    complete = docker_archive(tmp_path / "complete.tar").read_bytes()
    (tmp_path / "cut").write_bytes(complete[:2000])
    for name in ("text", "empty", "cut"):
        with pytest.raises(LlmstackError):
            kind(tmp_path / name).manifest("")
    with pytest.raises(UsageError, match="directory"):
        kind(tmp_path).manifest("")
    with pytest.raises(NotFoundError):
        kind(tmp_path / "none").manifest("")


@pytest.mark.parametrize("kind", [DockerArchive, OciArchive])
def test_a_pipe_is_refused(kind):
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as pipe,
        os.fdopen(writing, "wb"),
        pytest.raises(UsageError, match="cannot be read twice") as raised,
    ):
        kind(Path(f"/dev/fd/{pipe.fileno()}")).tags()
    assert raised.value.hint == "save it to a file first"


@pytest.mark.parametrize("headers", [3000 * [{"comment": "x"}], [{"GNU.sparse.map": "x,y"}]], ids=["many", "sparse"])
def test_headers_without_their_file(tmp_path, headers):
    blocks = []
    for pax in headers:
        info = tarfile.TarInfo("index.json")
        info.pax_headers = pax
        blocks.append(info.tobuf(tarfile.PAX_FORMAT)[: -tarfile.BLOCKSIZE])
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + tarfile.TarInfo("index.json").tobuf() + bytes(1024))
    with pytest.raises(IntegrityError, match=r"sparse files|invalid JSON"):
        OciArchive(tmp_path / "x.tar").tags()


def test_an_archive_of_another_tar_format(tmp_path):
    """Names over 100 bytes and members over 8 GiB need GNU or PAX headers."""
    data = docker_archive(tmp_path / "x.tar").read_bytes()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(tmp_path / "gnu.tar", "w", format=tarfile.GNU_FORMAT) as new,
    ):
        for member in old:
            new.addfile(member, old.extractfile(member))
    assert DockerArchive(tmp_path / "gnu.tar").tags() == ["a/b:c"]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a header with a size in GNU's binary form, which can be negative or larger than any disk."""
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [OciArchive, DockerArchive])
@pytest.mark.parametrize("entry", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [2**70, 2**63, 2**63 - 1, 2**40, -1, -511, -512, -1024, -5000])
def test_false_sizes(tmp_path, size, entry, kind):
    path = tmp_path / "archive.tar"
    with path.open("wb") as archive:
        archive.write(header("first", 0) + header("second", size, entry) + bytes(1024))
        # Too large to read.
        archive.truncate(2**40)
    with pytest.raises(LlmstackError):
        kind(path).tags()


@pytest.mark.parametrize("size", ["-512", str(2**70), "9" * 30])
def test_false_sizes_in_pax_headers(tmp_path, size):
    path = tmp_path / "archive.tar"
    record = f"size={size}\n"
    pax = f"{len(record) + 3} {record}".encode()
    padding = bytes(-len(pax) % 512)
    path.write_bytes(header("pax", len(pax), tarfile.XHDTYPE) + pax + padding + header("file", 0) + bytes(1024))
    with pytest.raises(LlmstackError):
        OciArchive(path).tags()
