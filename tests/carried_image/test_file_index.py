"""The file index: parsing returns what was written, and refuses invalid indexes."""

from __future__ import annotations

import io
import json
import tarfile
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.file_index import (
    BlobRange,
    FileIndex,
    IndexedFile,
    check_path,
    check_paths,
    extents,
)
from llmstack.carried_image.index_layer import index_layer
from llmstack.carried_image.selection import Selection
from llmstack.errors import IntegrityError
from llmstack.hf.snapshot import REPO_TYPES
from llmstack.oci.reference import Digest

LAYER = Digest.of(b"layer")
FILE = IndexedFile("config.json", 2, "a" * 40, "b" * 64, (BlobRange(LAYER, 512, 2),))
# 10 bytes in three layers.
PARTS = [BlobRange(Digest.of(b"%d" % number), 512, size) for number, size in enumerate((4, 4, 2))]
SPLIT = IndexedFile("big.bin", 10, "d" * 64, "d" * 64, tuple(PARTS))
INDEX = FileIndex(
    repo_id="org/tiny",
    repo_type="model",
    revision="main",
    commit="c" * 40,
    created="2024-01-01T12:00:00Z",
    license="mit",
    gated=False,
    selection=Selection(("*.json",), ()),
    files=(FILE,),
)
PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda part: part not in {".", ".."}
)
PATHS = st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), unique=True, max_size=8)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def parse(**changes: Any) -> FileIndex:
    return FileIndex.parse([json.dumps({**json.loads(INDEX.to_bytes()), **changes}).encode()])


def with_file(**changes: Any) -> FileIndex:
    return parse(files=[{**json.loads(INDEX.to_bytes())["files"][0], **changes}])


def test_the_bytes_of_an_index_are_fixed():
    """Other programs read it, and its digest must not change."""
    assert INDEX.to_bytes().decode() == (
        '{"format":"3","repo_id":"org/tiny","repo_type":"model","revision":"main",'
        f'"commit":"{"c" * 40}","created":"2024-01-01T12:00:00Z","license":"mit","gated":false,'
        '"include":["*.json"],"exclude":[],'
        f'"files":[{{"path":"config.json","size":2,"oid":"{"a" * 40}","sha256":"{"b" * 64}",'
        f'"layer":"{LAYER}","offset":512}}]}}'
    )


@given(
    paths=PATHS,
    sizes=st.integers(0, 2**60),
    texts=st.tuples(TEXT, TEXT, st.none() | TEXT),
    gated=st.booleans(),
    globs=st.tuples(st.lists(TEXT), st.lists(TEXT)),
)
def test_an_index_is_parsed_as_written(paths, sizes, texts, gated, globs):
    index = replace(
        INDEX,
        repo_id=texts[0],
        revision=texts[1],
        license=texts[2],
        gated=gated,
        selection=Selection(tuple(globs[0]), tuple(globs[1])),
        files=tuple(replace(FILE, path=path, size=sizes, ranges=(BlobRange(LAYER, sizes, sizes),)) for path in paths),
    )
    try:
        check_paths(paths)
    except IntegrityError:
        with pytest.raises(IntegrityError):
            FileIndex.parse([index.to_bytes()])
        return
    assert FileIndex.parse([index.to_bytes()]) == index


def test_the_order_of_its_members_does_not_matter():
    value = json.loads(INDEX.to_bytes())
    assert FileIndex.parse([json.dumps(dict(reversed(value.items()))).encode()]) == INDEX


HOSTILE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "a\0b",
    "\0",
    "x" * 4097,
    "a/" * 2048 + "a",
    "\ud800",
    "a/\udfff",
    "é" * 2049,
]


@pytest.mark.parametrize("path", HOSTILE)
def test_invalid_paths_are_refused(path: str):
    with pytest.raises(IntegrityError):
        check_path(path)
    with pytest.raises(IntegrityError):
        with_file(path=path)


@pytest.mark.parametrize("path", ["a", ".gitattributes", "...", "a/b/c", "-rf", "C:\\x", "a b", "ü/模型", "é" * 2048])
def test_valid_paths(path: str):
    assert check_path(path) == path
    assert with_file(path=path).files[0].path == path


@pytest.mark.parametrize(
    "paths", [["a", "a"], ["a", "a/b"], ["a/b", "a/b/c/d"], ["a", "a-b", "a/b"], ["b/x", "a", "b"], ["a!", "a", "a/b"]]
)
def test_a_path_is_unique_and_not_a_directory(paths: list[str]):
    with pytest.raises(IntegrityError):
        check_paths(paths)


@given(PATHS)
def test_files_below_files_are_found(paths: list[str]):
    below = any("/".join(path.split("/")[:depth]) in paths for path in paths for depth in range(1, path.count("/") + 1))
    try:
        check_paths(paths)
        assert not below
    except IntegrityError:
        assert below


def test_names_that_differ_in_case_or_share_a_prefix_are_different():
    check_paths(["a", "A", "a b", "ab", "a.b/c", "a-b"])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 1.0},
        {"size": True},
        {"size": "2"},
        {"size": None},
        {"offset": -512},
        {"offset": "0"},
        {"oid": "a" * 39},
        {"oid": "A" * 40},
        {"oid": 7},
        {"sha256": "b" * 63},
        {"sha256": None},
        {"layer": "sha256:x"},
        {"layer": ["sha256:" + "0" * 64]},
        {"path": 7},
    ],
)
def test_invalid_files_are_refused(changes: dict[str, Any]):
    with pytest.raises(IntegrityError):
        with_file(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "4"},
        {"format": None},
        {"format": 3},
        {"repo_type": "space"},
        {"repo_type": 1},
        {"commit": "main"},
        {"commit": "../x"},
        {"commit": None},
        {"files": None},
        {"files": {}},
        {"files": [None]},
        {"files": [[]]},
        {"files": "x"},
        {"include": "*"},
        {"include": [1]},
        {"exclude": {"a": 1}},
        {"license": 7},
        {"prepare": 7},
        {"repo_id": None},
        {"created": 7},
    ],
)
def test_an_invalid_index_is_refused(changes: dict[str, Any]):
    with pytest.raises(IntegrityError):
        parse(**changes)


def test_a_newer_format_hints_at_an_upgrade():
    for changes in ({}, {"files": ["a", "b"]}):
        with pytest.raises(IntegrityError) as raised:
            parse(format="4", **changes)
        assert "upgrade" in (raised.value.hint or "")


@pytest.mark.parametrize("form", ["1", "2", "3"])
def test_earlier_formats_are_read_and_written_unchanged(form: str):
    data = replace(INDEX, format=form).to_bytes()
    assert json.loads(data)["format"] == form
    assert FileIndex.parse([data]) == replace(INDEX, format=form)
    assert FileIndex.parse([data]).to_bytes() == data


def test_models_are_stored_under_models_since_format_3():
    assert [replace(INDEX, format=form).root for form in ("1", "2", "3")] == ["REPO", "REPO", "models"]
    assert replace(INDEX, repo_type="dataset").root == "REPO"
    assert FILE.entry_path("models") == "models/config.json"
    assert SPLIT.entry_path("models", 1) == f".llmstack/parts/{'d' * 64}/00001"


def test_the_layer_of_the_index_lists_all_directories_of_the_image():
    deep = replace(FILE, path="a/b/c.txt")
    split = replace(SPLIT, path="only/parts.bin")
    index = replace(INDEX, files=(FILE, deep, replace(deep, path="a-b/ü.txt"), split))
    parts = [".llmstack", ".llmstack/parts", f".llmstack/parts/{'d' * 64}"]
    repo = ["REPO", "REPO/a", "REPO/a-b", "REPO/a/b"]
    expected = {
        "model": [*parts, *repo, "models", "models/a", "models/a-b", "models/a/b"],
        "dataset": [*parts, *repo],
    }
    for repo_type in REPO_TYPES:
        typed = replace(index, repo_type=repo_type)
        data = typed.to_bytes()
        with tarfile.open(fileobj=io.BytesIO(b"".join(index_layer(typed, len(data), [data])))) as tar:
            *directories, last = tar.getmembers()
        assert (last.name, last.size) == (".llmstack/index.json", len(data))
        assert [member.name for member in directories] == expected[repo_type]
        assert all(member.isdir() and member.mode == 0o755 for member in directories)
    data = INDEX.to_bytes()
    assert len(b"".join(index_layer(replace(INDEX, format="1"), len(data), [data]))) == 512 + 512 + 1024


def test_a_split_file_needs_format_2_or_later():
    """A reader of format 1 refuses it, instead of returning incomplete files."""
    data = replace(INDEX, files=(SPLIT, FILE)).to_bytes()
    value = json.loads(data)
    assert value["files"][0] == {
        "path": "big.bin",
        "size": 10,
        "oid": "d" * 64,
        "sha256": "d" * 64,
        "parts": [{"layer": part.layer, "offset": part.offset, "size": part.size} for part in PARTS],
    }
    assert value["files"][1] == json.loads(INDEX.to_bytes())["files"][0]
    assert FileIndex.parse([data]).files == (SPLIT, FILE)
    with pytest.raises(IntegrityError, match="format 1 has no split files"):
        FileIndex.parse([json.dumps({**value, "format": "1"}).encode()])


SPLIT_JSON = SPLIT.to_json()
FIRST, *OTHERS = SPLIT_JSON["parts"]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 9},
        {"size": 11},
        {"parts": []},
        {"parts": [{**FIRST, "size": 10}]},
        {"parts": [FIRST, FIRST, *OTHERS[1:]]},
        {"parts": [FIRST, {**FIRST, "offset": 516}, *OTHERS[1:]]},
        {"parts": [{**FIRST, "offset": -512}, *OTHERS]},
        {"parts": [{**FIRST, "size": -4}, *OTHERS]},
        {"parts": [{**FIRST, "size": 0}, *OTHERS], "size": 6},
        {"parts": [{**FIRST, "size": True}, *OTHERS], "size": 7},
        {"parts": [{**FIRST, "layer": "sha256:x"}, *OTHERS]},
        {"parts": [{"layer": FIRST["layer"], "offset": 0}, *OTHERS]},
        {"parts": [7, *OTHERS]},
        {"parts": None},
        {"layer": FIRST["layer"]},
        {"offset": 512},
    ],
    ids=str,
)
def test_invalid_parts_are_refused(changes: dict[str, Any]):
    assert parse(format="2", files=[SPLIT_JSON]).files == (SPLIT,)
    with pytest.raises(IntegrityError):
        parse(format="2", files=[{**SPLIT_JSON, **changes}])


@given(st.integers(0, 12), st.integers(0, 12))
def test_extents_cover_the_requested_bytes(start: int, length: int):
    blobs = {
        part.layer: bytes(512) + bytes(range(place, place + part.size))
        for part, place in zip(PARTS, (0, 4, 8), strict=True)
    }
    found = extents(SPLIT, start, length)
    assert (
        b"".join(blobs[run.layer][run.offset : run.offset + run.size] for run in found)
        == bytes(range(10))[start : start + length]
    )
    assert all(run.size for run in found)
    single = extents(FILE, start, length)
    assert single == ([BlobRange(LAYER, 512 + start, min(length, 2 - start))] if start < 2 and length else [])


@pytest.mark.parametrize("name", ["repo_id", "repo_type", "revision", "commit", "created", "gated", "files"])
def test_every_member_is_required(name: str):
    value = json.loads(INDEX.to_bytes())
    del value[name]
    with pytest.raises(IntegrityError):
        FileIndex.parse([json.dumps(value).encode()])


@given(st.binary(max_size=50))
def test_bytes_that_are_not_an_index_are_refused(data: bytes):
    with pytest.raises(IntegrityError):
        FileIndex.parse([data])


@pytest.mark.slow
def test_a_hundred_thousand_files_take_linear_time():
    files = tuple(replace(FILE, path=f"data/{number % 100}/part-{number:06}.json") for number in range(100_000))
    began = time.process_time()
    data = replace(INDEX, files=files).to_bytes()
    assert FileIndex.parse([data]).files == files
    assert time.process_time() - began < 20


def test_deep_paths_take_linear_time():
    began = time.process_time()
    check_paths("a/" * 255 + str(number) for number in range(20_000))
    assert time.process_time() - began < 20


@pytest.mark.parametrize("path", ["a/" * 256 + "b", "a" * 4097, "é" * 2049])
def test_paths_have_a_limit(path: str):
    with pytest.raises(IntegrityError, match="at most 256 directories and 4096 bytes"):
        check_paths([path])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"oid": "a" * 64}, {}),
        ({}, {"sha256": "e" * 64}),
        ({}, {"oid": "e" * 40}),
        ({}, {"size": 3}),
        ({"oid": "b" * 64}, {"size": 3}),
    ],
)
def test_entries_that_contradict_each_other_are_refused(one: dict[str, Any], two: dict[str, Any]):
    entry = json.loads(INDEX.to_bytes())["files"][0]
    with pytest.raises(IntegrityError, match="contradicts"):
        parse(files=[{**entry, **one}, {**entry, "path": "b", **two}])


def test_equal_files_may_have_a_git_oid_and_a_sha256_oid():
    entry = json.loads(INDEX.to_bytes())["files"][0]
    assert len(parse(files=[entry, {**entry, "path": "b", "oid": "b" * 64}, {**entry, "path": "c"}]).files) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "9999-12-31T23:59:59-14:00"},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"created": "yesterday"},
        {"license": "\ud800"},
        {"repo_type": "space"},
        {"commit": "main"},
        {"x": json.loads("[" * 70 + "]" * 70)},
    ],
)
def test_invalid_values_are_integrity_errors(changes: dict[str, Any]):
    with pytest.raises(IntegrityError):
        parse(**changes)


@pytest.mark.parametrize("size", [2**63, 10**400, -1, 1.5, True, "1"])
def test_a_size_is_an_integer_below_2_to_the_63(size: object):
    with pytest.raises(IntegrityError):
        with_file(size=size)


@pytest.mark.parametrize("name", ["repo_id", "revision", "license"])
def test_what_lists_show_has_at_most_1024_characters(name: str):
    assert getattr(parse(**{name: "x" * 1024}), name) == "x" * 1024
    with pytest.raises(IntegrityError, match=rf"file index: {name} has 200,000 characters, the limit is 1,024"):
        parse(**{name: "x" * 200_000})


def test_a_tag_agrees_with_the_repo_and_revision_it_is_made_from():
    assert INDEX.agrees_with("org--tiny", None)
    assert INDEX.agrees_with("org--tiny--partial", "model")
    assert not INDEX.agrees_with("org--tiny", "dataset")
    assert replace(INDEX, revision="v1").agrees_with("org--tiny--v1", "model")
    assert not replace(INDEX, repo_id="org/tiny--v1").agrees_with("org--tiny--v1", "model")
    for tag in ("org--other", "tiny", "org--tiny--v1", "latest"):
        assert not INDEX.agrees_with(tag, None)
