"""Previews of files from their first bytes."""

from __future__ import annotations

import gzip
import json

import pytest

from llmstack.hub_server.pages.previews import START, Preview, Table, may_preview, preview


def shown(path: str, data: bytes) -> Preview | None:
    """Return the preview as the page does: from the first bytes."""
    return preview(path, data[:START], len(data))


ROWS = Table(["a", "b"], [["1", "x"], ["2", ""]], 0)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.csv", "a,b\n1,x\n2,\n"),
        ("A.TSV", "\ufeffa\tb\r\n1\tx\r\n2\t\r\n"),
        ("a.jsonl", '{"a": 1, "b": "x"}\n\n{"a": 2}\n'),
        ("a.json", '[{"a": 1, "b": "x"}, {"a": 2}]'),
        ("a.json", '{"a": 1, "b": "x"}\n{"a": 2}'),
    ],
)
def test_rows(path: str, text: str):
    assert shown(path, text.encode()) == Preview(ROWS, "", is_cut=False)
    assert shown(f"{path}.gz", gzip.compress(text.encode())) == Preview(ROWS, "", is_cut=False)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "csv.gz"])
def test_the_first_rows_of_a_large_file(suffix: str):
    rows = [{"n": number, "text": f"{number} \n" * 3000} for number in range(100)]
    if suffix == "json":
        data = json.dumps(rows).encode()
    elif suffix == "jsonl":
        data = "\n".join(map(json.dumps, rows)).encode()
    else:
        data = b"n,text\n" + "".join(f'{row["n"]},"{row["text"]}"\n' for row in rows).encode()
    found = shown(f"a.{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)
    assert found is not None
    assert found.table is not None
    # Only complete rows are shown, and only the first ones.
    assert found.is_cut
    assert 5 <= len(found.table.rows) <= 50
    for number, (first, second) in enumerate(found.table.rows):
        assert (first, len(second)) == (str(number), 301)


def test_wide_rows_and_long_cells():
    found = shown("a.csv", (",".join("c" * 1000 for _ in range(40)) + "\n").encode())
    assert found is not None
    assert found.table == Table(["c" * 300 + "…"] * 30, [], 10)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.csv", b"a" * 200_000 + b",b\n"),
        ("a.json", b"[" * 100_000),
        ("a.json", b'{"a":' * 30_000),
        ("a.jsonl", b'{"a": ' + b"9" * 10_000 + b"}"),
        ("a.json", b'{"a": 1'),
        ("a.json", b"[1, 2]"),
        ("a.json", ("[" * 500 + "0," * 60_000 + "0" + "]" * 500).encode()),
        ("a.txt", "é".encode() * START),
        ("a.py", b"print(1)"),
        ("unknown", b"text"),
    ],
)
def test_what_is_no_table_is_text(path: str, data: bytes):
    found = shown(path, data)
    assert found is not None
    assert found.table is None
    assert 0 < len(found.text) <= 64 * 1024


def test_json_on_one_line_gets_lines():
    assert shown("a.json", b'{"a":[1,{"b":null}]}') == Preview(
        None, json.dumps({"a": [1, {"b": None}]}, indent=2), is_cut=False
    )


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe", b"\x89PNG\r\n"])
def test_bytes_have_no_preview(data: bytes):
    assert shown("a.txt", data) is None
    assert shown("a.csv.gz", data) is None
    assert shown("a.txt.gz", gzip.compress(data)) is None


def test_a_small_file_that_expands_is_cut():
    found = shown("a.txt.gz", gzip.compress(bytes(10**8).replace(b"\0", b"a")))
    assert found is not None
    assert (found.is_cut, len(found.text)) == (True, 64 * 1024)


def test_large_files_that_are_no_text_are_not_read():
    assert not may_preview("model.safetensors", START + 1)
    assert may_preview("a.jsonl.gz", 10**12)
    assert may_preview("unknown", START)
