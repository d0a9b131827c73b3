"""Tar layers against tarfile and GNU tar. No release may change their bytes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmstack.oci import tar_writer
from llmstack.oci.tar_writer import TarFile
from tests.support.carried import write_large
from tests.support.process import need

GiB = 1024**3
PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=300).filter(
    lambda part: part not in {".", ".."}
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: "REPO/" + "/".join(parts))
SIZES = st.one_of(
    st.integers(0, 3000),
    st.sampled_from([511, 512, 513, 8 * GiB - 1, 8 * GiB, 8 * GiB + 1, 70 * GiB, 2**50]),
    st.integers(8 * GiB - 600, 8 * GiB + 600),
)
FILES = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), min_size=1, max_size=6, unique_by=lambda file: file[0])


def layer_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    files = list(files)
    return b"".join(tar_writer.layer([TarFile(name, len(data)) for name, data in files], [[data] for _, data in files]))


@given(NAMES, SIZES)
@example("REPO/" + "x" * 95, 8 * GiB - 1)
@example("REPO/" + "x" * 96, 8 * GiB)
@example("REPO/" + "é" * 127, 0)
def test_headers_of_any_name_and_size(name: str, size: int):
    data = tar_writer.header(TarFile(name, size))
    assert len(data) % tar_writer.BLOCK == 0
    member = tarfile.TarFile(fileobj=io.BytesIO(data + bytes(1024))).next()
    assert member is not None
    assert (
        member.name,
        member.size,
        member.mode,
        member.mtime,
        member.uid,
        member.gid,
        member.uname,
        member.gname,
    ) == (
        name.rstrip("/"),
        size,
        0o644,
        0,
        0,
        0,
        "",
        "",
    )
    assert member.isreg()
    assert member.offset_data == len(data)


@given(FILES)
def test_files_are_at_their_offsets(files: list[tuple[str, bytes]]):
    data = layer_of(files)
    described = [TarFile(name, len(content)) for name, content in files]
    starts, size = tar_writer.offsets(described)
    assert size == len(data)
    assert [data[start : start + file.size] for start, file in zip(starts, described, strict=True)] == [
        content for _, content in files
    ]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [name for name, _ in files]
        assert [member.offset_data for member in members] == starts
        assert [archive.extractfile(member).read() for member in members] == [content for _, content in files]
    assert data.endswith(bytes(1024))


@given(st.lists(SIZES, min_size=1, max_size=5))
def test_offsets_without_content(sizes: list[int]):
    files = [TarFile(f"REPO/{number}", size) for number, size in enumerate(sizes)]
    starts, end = tar_writer.offsets(files)
    position = 0
    for file, start in zip(files, starts, strict=True):
        assert start - position == len(tar_writer.header(file))
        position = start + (file.size + 511) // 512 * 512
    assert end == position + 1024


def test_gnu_tar_reads_layers(tmp_path: Path):
    names = {
        "REPO/config.json": b"{}",
        "REPO/empty": b"",
        "REPO/deep/er/" + "n" * 255: b"long name",
        "REPO/" + "/".join(["folder" * 10] * 12) + "/x": b"long path",
        "REPO/ünïcödé 模型 🦙.bin": b"unicode",
        "REPO/back\\slash 'quote' \"double\" $x": b"shell",
        "REPO/-rf": b"option",
        "REPO/block": b"b" * 512,
        "REPO/more": b"m" * 513,
    }
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layer_of(names.items()))
    listed = subprocess.run(
        [need("tar", "tar"), "--list", "--verbose", "--numeric-owner", "--utc", "--file", archive],
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stderr == ""
    assert all(
        line.startswith("-rw-r--r-- 0/0") and " 1970-01-01 00:00 " in line for line in listed.stdout.splitlines()
    )
    assert len(listed.stdout.splitlines()) == len(names)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([need("tar", "tar"), "--extract", "--directory", out, "--file", archive], check=True)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == names


@pytest.mark.system
@pytest.mark.parametrize("size", [8 * GiB - 1, 8 * GiB, 70 * GiB])
@pytest.mark.parametrize("command", [[("tar", "tar")], [("busybox", "busybox-static"), "tar"]], ids=["gnu", "busybox"])
def test_other_tars_list_files_beyond_8_gib(tmp_path: Path, command: list[tuple[str, str] | str], size: int):
    archive = tmp_path / "large.tar"
    write_large(archive, size, {"models/after": b"abc"})
    program, *rest = command
    listing = [need(*program), *rest, "-tvf", str(archive)]
    done = subprocess.run(listing, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert str(size) in done.stdout.splitlines()[0].split()
    assert "models/after" in done.stdout.splitlines()[-1].split()


@pytest.mark.system
@pytest.mark.parametrize("size", [8 * GiB, 70 * GiB])
def test_go_finds_what_follows_a_file_beyond_8_gib(tmp_path: Path, size: int):
    """Skopeo reads archives with Go's archive/tar, as Docker and containerd read layers."""
    manifest = [{"Config": "config.json", "RepoTags": ["found:here"], "Layers": []}]
    write_large(tmp_path / "large.tar", size, {"manifest.json": json.dumps(manifest).encode(), "config.json": b"{}"})
    command = [need("skopeo", "skopeo"), "list-tags", f"docker-archive:{tmp_path}/large.tar"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "found:here" in done.stdout, done.stderr


@pytest.mark.parametrize("size", [8 * GiB, 70 * GiB])
def test_tarfile_finds_what_follows_a_file_beyond_8_gib(tmp_path: Path, size: int):
    write_large(tmp_path / "large.tar", size, {"models/after": b"abc"})
    with tarfile.open(tmp_path / "large.tar") as archive:
        assert [(member.name, member.size) for member in archive][::2] == [("models/large", size), ("models/after", 3)]


# Reuse and reproducibility depend on the digest of a layer, with every version of Python.
@pytest.mark.parametrize(
    ("name", "size", "length", "sha256"),
    [
        ("REPO/config.json", 2, 512, "070ad241649eb5d091de5ee9e8831fc731ae7e2639ff7afaf09167f84eea7199"),
        ("REPO/" + "n" * 120, 5, 1536, "3d036b0a81a1512eb278641ba3d18ba24d6d4b23ccf1774738f2daa8a569889e"),
        ("REPO/模型.bin", 5, 1536, "a2b993a3fc3e4444524bc7163f21baedc9682cdb855eedf6bf6925466a3207a6"),
        ("REPO/model.safetensors", 9 * GiB, 1536, "f2b7f05788a82947caf6ea696412def283a37b417bf80783d4228145511a2996"),
        ("REPO/" + "é" * 600, 2**40, 2560, "3ae2094087d4ead5fe9587f570127a29a92291494b2b4ef5bf1b11831119f223"),
    ],
)
def test_the_bytes_of_headers(name: str, size: int, length: int, sha256: str):
    data = tar_writer.header(TarFile(name, size))
    assert (len(data), hashlib.sha256(data).hexdigest()) == (length, sha256)


def test_the_bytes_of_directories_and_hard_links():
    assert hashlib.sha256(tar_writer.directory("REPO/sub")).hexdigest() == (
        "74b08f85ef2a5d5d5e96726660d264da87809bbf8c87aaf15004961f34cb3ac4"
    )
    assert hashlib.sha256(tar_writer.trailer(TarFile("models/a", 3, ("REPO/a",)))).hexdigest() == (
        "0e071e31119f451da20247d3a84a998ad9b25f154bbb36a6c990b68e41bcab0b"
    )


@given(SIZES)
@example(2**63 - 1)
def test_the_ustar_header_alone_has_the_size(size: int):
    """Clair and Quay ignore PAX headers."""
    block = tar_writer.header(TarFile("models/x", size))[-tar_writer.BLOCK :]
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size, info.type) == ("models/x", size, tarfile.REGTYPE)
    unsigned = 8 * ord(" ") + sum(block[:148]) + sum(block[156:])
    assert int(block[148:154], 8) == unsigned


@given(FILES)
def test_hard_links_follow_their_files(files: list[tuple[str, bytes]]):
    described = [TarFile(name.replace("REPO/", "models/", 1), len(data), (name,)) for name, data in files]
    data = b"".join(tar_writer.layer(described, [[data] for _, data in files], ["REPO", "models"]))
    starts, size = tar_writer.offsets(described)
    assert len(data) == size + 2 * tar_writer.BLOCK
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        first, second, *members = archive.getmembers()
        assert [(member.name, member.mode, member.isdir()) for member in (first, second)] == [
            ("REPO", 0o755, True),
            ("models", 0o755, True),
        ]
        for file, start, link, (name, content) in zip(described, starts, members[1::2], files, strict=True):
            assert data[start + 1024 : start + 1024 + file.size] == content
            assert (link.name, link.linkname, link.islnk(), link.size) == (name, file.path, True, 0)
            assert archive.extractfile(link).read() == content


def test_a_short_name_takes_one_ustar_block():
    data = tar_writer.header(TarFile("REPO/config.json", 2))
    fields = (
        b"REPO/config.json".ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2 + b"00000000002\0" + b"00000000000\0",
        b"010642\0 ",
        b"0" + bytes(100) + b"ustar\x0000" + bytes(80),
    )
    assert data.startswith(b"".join(fields))
    assert len(data) == 512
    assert not any(data[sum(map(len, fields)) :])


def test_small_pieces_are_joined():
    sizes = [10, 300_000, 10, 10, 200_000, 200_000, 1_000_000, 0]
    files = [TarFile(f"REPO/{number}", size) for number, size in enumerate(sizes)]
    chunks = list(tar_writer.layer(files, ([bytes(size)] for size in sizes)))
    assert sum(map(len, chunks)) == tar_writer.offsets(files)[1]
    assert len(chunks) < 12
    assert max(map(len, chunks)) <= 1_000_000


def test_errors_of_contents_pass_through():
    def broken() -> Iterable[bytes]:
        yield b"a"
        raise RuntimeError("source")

    with pytest.raises(RuntimeError, match="source"):
        list(tar_writer.layer([TarFile("REPO/a", 5)], [broken()]))
