"""Tars as the standard library, GNU tar and docker write them, in chunks of any size; judged by tarfile."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from llmstack.oci import tar_writer
from llmstack.oci.compression import decompressed
from llmstack.oci.tar_reader import TarReader

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=300).filter(
    lambda name: name.strip("/")
)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([7, 512, 513, 100_000]),
)
def test_what_tarfile_writes(files, form, size):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    reader = TarReader(cut(stream.getvalue(), size), "a tar")
    found = []
    for entry in reader:
        offset = reader.position
        content = b"".join(reader.content())
        assert stream.getvalue()[offset : offset + entry.size] == content
        found.append((entry.name, content))
    # tarfile takes the slashes off the ends of names, as every reader does.
    assert [(name.rstrip("/"), content) for name, content in found] == [
        (name.rstrip("/"), content) for name, content in files
    ]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 2**33 - 1, 2**33, 70 * 10**9, 2**60])
def test_sizes(size):
    """Beyond 8 GiB a size no longer fits into a plain header."""
    data = tar_writer.header(tar_writer.TarFile("REPO/big", size))
    entry = next(iter(TarReader([data], "a tar")))
    assert (entry.name, entry.size) == ("REPO/big", size)


def test_gnu_sizes():
    info = tarfile.TarInfo("big")
    info.size = 2**40
    assert next(iter(TarReader([info.tobuf(tarfile.GNU_FORMAT)], "a tar"))).size == 2**40


def test_what_is_not_read_is_skipped():
    layer = b"".join(
        tar_writer.layer([tar_writer.TarFile("a", 3000), tar_writer.TarFile("b", 1)], [[bytes(3000)], [b"b"]])
    )
    reader = TarReader(cut(layer, 1000), "a tar")
    assert [entry.name for entry in reader] == ["a", "b"]


def test_global_headers_are_nobodys():
    """`git archive` writes one; Go's reader, which docker uses, does not apply it to entries."""
    head = tarfile.TarInfo.create_pax_global_header({"comment": "c0ffee", "path": "evil"})
    reader = TarReader([head + tar_writer.header(tar_writer.TarFile("a", 0))], "a tar")
    assert [entry.name for entry in reader] == ["a"]


@given(st.binary(max_size=2000))
def test_anything_at_all(data):
    """No input ends in another exception than IntegrityError."""
    for stream in (data, tar_writer.header(tar_writer.TarFile("a", 5)) + data):
        try:
            for _ in TarReader(decompressed(cut(stream, 700), "a layer"), "a layer"):
                pass
        except IntegrityError:
            pass


@given(st.binary(max_size=600), st.integers(0, 1535))
def test_a_damaged_header(noise, place):
    data = bytearray(tar_writer.header(tar_writer.TarFile("a" * 200, 2**34)) + bytes(1024))
    data[place : place + len(noise)] = noise
    try:
        for entry in TarReader([bytes(data)], "a layer"):
            assert entry.size >= 0
    except IntegrityError:
        pass
