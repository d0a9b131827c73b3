"""The preview of a file from its first bytes: its text, or the rows of a table. Pure.

Files are from strangers: bytes, rows, columns and cells have limits. A cell is only text, whatever it holds.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

# The bytes of a file that are read, and the characters of its text that are shown.
START = 256 * 1024
_MAX_TEXT = 64 * 1024
_ROWS, _COLUMNS, _CELL = 50, 30, 300
_TABLES = {".csv": ",", ".tsv": "\t"}
_ROW_FILES = frozenset({".json", ".jsonl", ".ndjson"})
# Larger files with these suffixes are text, too.
_TEXT = frozenset(
    [
        *(".bib", ".cfg", ".css", ".html", ".ini", ".ipynb", ".jinja", ".js", ".log", ".md", ".py", ".rst", ".sh"),
        *(".sql", ".svg", ".tex", ".toml", ".txt", ".xml", ".yaml", ".yml", *_TABLES, *_ROW_FILES),
    ]
)
_BAD_JSON = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Table:
    """The first rows of a table; `more_columns` were left out."""

    columns: list[str]
    rows: list[list[str]]
    more_columns: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The beginning of a file as a table or as text; `is_cut` means that there is more."""

    table: Table | None
    text: str
    is_cut: bool


def may_preview(path: str, size: int) -> bool:
    """Tell whether the first bytes of a file may be text."""
    return size <= START or _kind(path)[0] in _TEXT


def preview(path: str, start: bytes, size: int) -> Preview | None:
    """Return the preview of a file of `size` bytes from its first ones; None if they are not text."""
    suffix, is_packed = _kind(path)
    is_cut = size > len(start)
    if is_packed:
        try:
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            start = unpacker.decompress(start, START)
        except zlib.error:
            return None
        is_cut = not unpacker.eof
    if b"\0" in start:
        return None
    try:
        # A character may be cut at the end.
        text = start.decode("utf-8-sig", errors="ignore" if is_cut else "strict")
    except UnicodeDecodeError:
        return None
    if table := _table(suffix, text, is_cut):
        return Preview(table, "", is_cut or len(table.rows) == _ROWS)
    if suffix == ".json" and not is_cut:
        text = _indented(text)
    return Preview(None, text[:_MAX_TEXT], is_cut or len(text) > _MAX_TEXT)


def _kind(path: str) -> tuple[str, bool]:
    """Return the suffix of a file without that of its compression, and whether it is compressed by gzip."""
    stem, suffix = posixpath.splitext(path.lower())
    return (posixpath.splitext(stem)[1], True) if suffix == ".gz" else (suffix, False)


def _table(suffix: str, text: str, is_cut: bool) -> Table | None:
    """Return the rows of a table; None if the text has none."""
    try:
        if suffix in _TABLES:
            return _from_csv(text, _TABLES[suffix], is_cut)
        if suffix in _ROW_FILES:
            array = text.lstrip()
            rows = _array_items(array, is_cut) if array.startswith("[") else _lines(text, is_cut)
            found = _from_objects(islice(rows, _ROWS))
            # One object is a config, not a row.
            return None if found and len(found.rows) == 1 and suffix == ".json" else found
    except (csv.Error, *_BAD_JSON):
        return None
    return None


def _from_csv(text: str, delimiter: str, is_cut: bool) -> Table | None:
    found = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), _ROWS + 2))
    if is_cut and len(found) < _ROWS + 2:
        # The last row may be cut, too.
        found.pop()
    return _limited(found[0], found[1 : _ROWS + 1]) if found else None


def _lines(text: str, is_cut: bool) -> Iterator[object]:
    lines = text.split("\n")
    for line in lines[:-1] if is_cut else lines:
        if line.strip():
            yield json.loads(line)


def _array_items(text: str, is_cut: bool) -> Iterator[object]:
    """Yield the items of a JSON array of which the end may be missing; raises ValueError."""
    decoder, at = json.JSONDecoder(), 1
    while True:
        at += len(text[at : at + START]) - len(text[at : at + START].lstrip(", \t\r\n"))
        if at >= len(text) or text[at] == "]":
            return
        try:
            item, at = decoder.raw_decode(text, at)
        except ValueError:
            if is_cut:
                return
            raise
        yield item


def _from_objects(items: Iterable[object]) -> Table | None:
    """Return a table of JSON objects; None if there are none."""
    rows = [item for item in items if isinstance(item, dict)]
    if not rows:
        return None
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    return _limited(columns, [[_cell(row.get(name, "")) for name in columns[:_COLUMNS]] for row in rows])


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _limited(columns: list[str], rows: list[list[str]]) -> Table:
    width = max(map(len, [columns, *rows]))
    shown = [[_short(cell) for cell in row[:_COLUMNS]] for row in rows]
    return Table([_short(name) for name in columns[:_COLUMNS]], shown, max(0, width - _COLUMNS))


def _short(cell: str) -> str:
    return cell if len(cell) <= _CELL else f"{cell[:_CELL]}…"


def _indented(text: str) -> str:
    """Return JSON that is on one line with line breaks, up to the limit of what is shown; other text as it is."""
    if "\n" in text.strip():
        return text
    parts, length = [], 0
    try:
        for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text)):
            parts.append(part)
            length += len(part)
            if length > _MAX_TEXT:
                break
    except _BAD_JSON:
        return text
    return "".join(parts)
