"""TarReader against tarfile: the formats of the standard library, GNU tar and Docker, in chunks of any size."""

from __future__ import annotations

import io
import tarfile
import time

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from llmstack.oci import tar_writer
from llmstack.oci.compression import decompressed
from llmstack.oci.tar_reader import TarEntry, TarReader
from tests.support.layers import file, symlink
from tests.support.layers import tar as make_tar

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
def test_entries_of_tarfile(files, form, size):
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
    # tarfile removes slashes at the end of names.
    assert [(name.rstrip("/"), content) for name, content in found] == [
        (name.rstrip("/"), content) for name, content in files
    ]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 2**33 - 1, 2**33, 70 * 10**9, 2**60])
def test_sizes(size):
    """Sizes of 8 GiB and more need a PAX header."""
    data = tar_writer.header(tar_writer.TarFile("REPO/big", size))
    entry = next(iter(TarReader([data], "a tar")))
    assert (entry.name, entry.size) == ("REPO/big", size)


def test_gnu_sizes():
    info = tarfile.TarInfo("big")
    info.size = 2**40
    assert next(iter(TarReader([info.tobuf(tarfile.GNU_FORMAT)], "a tar"))).size == 2**40


def test_unread_content_is_skipped():
    layer = b"".join(
        tar_writer.layer([tar_writer.TarFile("a", 3000), tar_writer.TarFile("b", 1)], [[bytes(3000)], [b"b"]])
    )
    reader = TarReader(cut(layer, 1000), "a tar")
    assert [entry.name for entry in reader] == ["a", "b"]


def test_global_headers_do_not_apply_to_entries():
    """`git archive` writes one. Go's archive/tar, which Docker uses, ignores it."""
    head = tarfile.TarInfo.create_pax_global_header({"comment": "c0ffee", "path": "evil"})
    reader = TarReader([head + tar_writer.header(tar_writer.TarFile("a", 0))], "a tar")
    assert [entry.name for entry in reader] == ["a"]


@given(st.binary(max_size=2000))
def test_any_input_ends_in_entries_or_an_integrity_error(data):
    for stream in (data, tar_writer.header(tar_writer.TarFile("a", 5)) + data):
        try:
            for _ in TarReader(decompressed(cut(stream, 700), "a layer"), "a layer"):
                pass
        except IntegrityError:
            pass


@given(st.binary(max_size=600), st.integers(0, 1535))
def test_damaged_headers(noise, place):
    data = bytearray(tar_writer.header(tar_writer.TarFile("a" * 200, 2**34)) + bytes(1024))
    data[place : place + len(noise)] = noise
    try:
        for entry in TarReader([bytes(data)], "a layer"):
            assert entry.size >= 0
    except IntegrityError:
        pass


@pytest.mark.parametrize("name", ["/REPO/a", "./REPO/a", "REPO//a", "//REPO/./a/", "REPO/a"])
def test_equal_paths(name):
    assert TarEntry(name, "file", 0, "").path == "REPO/a"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("REPO/" + "a/" * 256, "257 directories deep, the limit is 256"),
        ("REPO/../REPO/a", "names with .. are not allowed"),
        ("..", "names with .. are not allowed"),
    ],
)
def test_refused_paths(name, message):
    with pytest.raises(IntegrityError, match=message):
        _ = TarEntry(name, "file", 0, "").path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("entry", [file("a" * 4097), symlink("a", "b" * 4097), file("é" * 2049)])
def test_names_and_targets_have_a_limit_in_bytes(entry, form):
    with pytest.raises(IntegrityError, match="bytes long, the limit is 4096"):
        list(TarReader([make_tar(entry, form=form)], "a tar"))


def test_sparse_files_are_refused_by_their_own_name():
    """GNU tar stores the real name in a PAX header."""
    sparse = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "REPO/weights",
        "GNU.sparse.size": "9",
    }
    for entry in (
        file("REPO/GNUSparseFile.0/weights", pax_headers=sparse),
        file("REPO/weights", pax_headers={"GNU.sparse.size": "9"}),
        file("REPO/weights", type=tarfile.GNUTYPE_SPARSE),
    ):
        with pytest.raises(IntegrityError, match="'REPO/weights': sparse files are not allowed"):
            list(TarReader([make_tar(entry)], "a tar"))


def test_sizes_of_2_to_the_63_and_more_are_refused():
    header = tarfile.TarInfo("a")
    header.size = 2**63
    with pytest.raises(IntegrityError, match="'a': invalid size 9223372036854775808"):
        list(TarReader([header.tobuf(tarfile.GNU_FORMAT)], "a tar"))


def extension(data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return file("PaxHeaders/a", data, type=tarfile.XHDTYPE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([file(str(number)) for number in range(101_000)], "more than 100,000 entries and one per 32 bytes"),
        ([extension(b"10 a=" + b"x" * 4 + b"\n" + b"5 a=\n" * 200_000)] * 6, "more than 4,194,304 bytes of headers"),
    ],
    ids=["entries", "headers"],
)
def test_a_small_blob_does_not_expand_to_many_headers(entries, message):
    blob = zstandard.compress(make_tar(*entries))
    assert len(blob) < 400_000
    with pytest.raises(IntegrityError, match=message):
        list(TarReader(decompressed([blob], "a layer"), "a layer", 0))


def test_a_pax_header_takes_time_in_proportion_to_its_size():
    """A copy of the rest for each record took 4 s."""
    reader = TarReader([make_tar(extension(b"5 a=\n" * 200_000), file("a"))], "a tar")
    started = time.process_time()
    assert [entry.name for entry in reader] == ["a"]
    assert time.process_time() - started < 2
