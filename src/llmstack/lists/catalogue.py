"""The catalogue, models.md and datasets.md: a Markdown table with one row per carried tag, and lines of users.

llmstack changes only its own rows, which it finds by their first cell (repo id and revision). All other lines stay
unchanged, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.disk import disk_unavailable, lock_directory, replace_file
from llmstack.hf.hub_urls import PUBLIC_HUB, repo_url
from llmstack.hf.snapshot import RepoType
from llmstack.oci.reference import Digest
from llmstack.reporting.text import human_size, printable

FILE_NAMES: dict[RepoType, str] = {"model": "models.md", "dataset": "datasets.md"}

_COLUMNS = ("Commit", "Date", "Size", "License", "Image")
# Tables of earlier versions keep their column names.
_HEADS = (_COLUMNS, ("Commit", "Date", "Size", "Licence", "Image"))
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_SEPARATOR = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*")
_CELL_END = re.compile(r"(?<!\\)\|")
# A linked name and a linked commit: rows that users wrote do not match by accident.
_LINKED = r"\[((?:[^\]\\]|\\.)+)\]\([^)]*\)\s*\|\s*\[[^\]]*\]\([^)]*/tree/[^)]*\)"
# Files of this machine have no page to link to.
_LOCAL = "local"
_UNLINKED = rf"((?:[^|\[\]\\]|\\.)+?)\s*\|\s*{_LOCAL} [0-9a-f]{{12}}"
_OWN_ROW = re.compile(rf"\s*\|\s*(?:{_LINKED}|{_UNLINKED})\s*\|")
_MARKUP = re.compile(r"([\\`*\[\]<>|])")
_SHORT_COMMIT = 12


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """The row of a carried tag: `size` in bytes, `created` the commit's date (ISO 8601).

    `image` is the reference to pull, with its tag; `hub` is the URL of the hub that the links lead to. `renamed_to` is
    the current id of a renamed repo: the links lead to it. A `local` repo has no page on a hub, and no date.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    commit: str
    created: str
    size: int
    license: str | None
    image: str
    digest: Digest
    hub: str = PUBLIC_HUB
    renamed_to: str | None = None
    local: bool = False

    @property
    def key(self) -> str:
        """The key of the row: `repo_id`, or `repo_id@revision` for a revision other than main."""
        return printable(self.repo_id if self.revision == DEFAULT_REVISION else f"{self.repo_id}@{self.revision}")

    def to_line(self) -> str:
        """Return the row in Markdown, without a newline."""
        cells = (
            *self._linked(),
            human_size(self.size),
            escape(self.license or "not stated"),
            _code(f"{self.image}@{self.digest}"),
        )
        return f"| {' | '.join(cells)} |"

    def _linked(self) -> tuple[str, str, str]:
        """Return the cells of name, commit and date."""
        name, commit = escape(self.key), escape(self.commit[:_SHORT_COMMIT])
        if self.local:
            return name, f"{_LOCAL} {commit}", "not stated"
        page = repo_url(self.renamed_to or self.repo_id, self.repo_type, self.hub)
        repo_page = page if self.revision == DEFAULT_REVISION else f"{page}/tree/{quote(self.revision, safe='')}"
        return (
            f"[{name}]({repo_page})",
            f"[{commit}]({page}/tree/{quote(self.commit, safe='')})",
            escape(self.created[:10]),
        )


def empty(repo_type: RepoType) -> str:
    """Return a catalogue without rows."""
    return (
        f"# Carried {repo_type}s\n\nThe {repo_type}s that `llmstack ferry` carried, and their images. llmstack adds "
        "and updates the rows of the\ntable. It does not change any other line.\n\n"
        + "\n".join(_table_head(repo_type))
        + "\n"
    )


def parse(text: str) -> dict[str, str]:
    """Return llmstack's own rows by key (CatalogueRow.key), in order."""
    lines = _LINE.findall(text)
    return {key: lines[position].rstrip("\r\n") for position, key in _own_rows(lines, _find_table(lines)).items()}


def upsert(text: str, row: CatalogueRow) -> str:
    """Return the catalogue with `row` instead of the row with its key; a new row is inserted by name.

    Cells that users added to a row stay. A text without the table gets one at its end, an empty text also a heading.
    """
    lines: list[str] = _LINE.findall(text or empty(row.repo_type))
    line_end = _line_end(lines)
    table = _find_table(lines)
    if table is None:
        lines += _new_table(lines, row.repo_type, line_end)
        table = range(len(lines), len(lines))
    same = [position for position, key in _own_rows(lines, table).items() if key == row.key]
    more = _more_cells(lines[same[0]]) if same else ""
    return _put(lines, table, row.key, row.to_line() + more)


def put(text: str, key: str, line: str | None) -> str:
    """Return the catalogue with `line` as the row of a key, None: without that row. No change if it has no table."""
    lines: list[str] = _LINE.findall(text)
    table = _find_table(lines)
    return text if table is None else _put(lines, table, key, line)


def without_rows(text: str) -> str:
    """Return the lines of users: the text without llmstack's own rows."""
    lines: list[str] = _LINE.findall(text)
    own = _own_rows(lines, _find_table(lines))
    return "".join(line for position, line in enumerate(lines) if position not in own)


def date_of(line: str) -> str:
    """Return the date of a row's commit, as written in the row."""
    return _cells(line)[2]


def record(path: Path, row: CatalogueRow) -> bool:
    """Update the catalogue at `path` with `row`; return whether it changed.

    Concurrent processes wait for each other. A reader sees the complete old file or the complete new one.
    Raises UnavailableError if the file cannot be read or written.
    """
    path = path.resolve()
    try:
        with lock_directory(path.parent):
            # Bytes that are not UTF-8 belong to users and stay unchanged.
            old = path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""
            new = upsert(old, row)
            if new == old:
                return False
            replace_file(path, new.encode(errors="surrogateescape"))
            return True
    except OSError as error:
        raise disk_unavailable(f"catalogue {path}: cannot be updated", error) from error


def _table_head(repo_type: RepoType) -> tuple[str, str]:
    names = (repo_type.capitalize(), *_COLUMNS)
    return f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"


def _put(lines: list[str], table: range, key: str, line: str | None) -> str:
    """Replace the rows of a key, of which a merge may have left two, or insert a new row by name."""
    keys = _own_rows(lines, table)
    same = [position for position, found in keys.items() if found == key]
    line_end = _line_end(lines)
    if same:
        old = lines[same[0]]
        lines[same[0]] = "" if line is None else line + old[len(old.rstrip("\r\n")) :]
        for position in reversed(same[1:]):
            del lines[position]
    elif line is not None:
        greater = [position for position, found in keys.items() if _order(found) > _order(key)]
        position = greater[0] if greater else max(keys, default=table.start - 1) + 1
        if not lines[position - 1].endswith("\n"):
            lines[position - 1] += line_end
        lines.insert(position, line + line_end)
    return "".join(lines)


def _line_end(lines: list[str]) -> str:
    # A first line that ends with a lone \r gets a \n when something follows it: both are read the same.
    return "\r\n" if lines[0].rstrip("\n").endswith("\r") else "\n"


def _new_table(lines: list[str], repo_type: RepoType, line_end: str) -> list[str]:
    """Return the lines that add a table below `lines`, after the end of the last line and a blank line."""
    gap = [] if lines[-1].endswith("\n") else [line_end]
    gap += [line_end] if lines[-1].strip() else []
    return gap + [line + line_end for line in _table_head(repo_type)]


def _find_table(lines: list[str]) -> range | None:
    """Return the positions of the rows of llmstack's table, found by its column names."""
    for head in range(len(lines) - 1):
        if tuple(_cells(lines[head])[1 : 1 + len(_COLUMNS)]) in _HEADS and _SEPARATOR.fullmatch(lines[head + 1]):
            end = start = head + 2
            while end < len(lines) and lines[end].lstrip().startswith("|"):
                end += 1
            return range(start, end)
    return None


def _own_rows(lines: list[str], table: range | None) -> dict[int, str]:
    """Return the keys of llmstack's own rows by position."""
    found = ((position, _OWN_ROW.match(lines[position])) for position in table or ())
    return {position: re.sub(r"\\(.)", r"\1", match[1] or match[2]) for position, match in found if match}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(line.strip().lstrip("\ufeff"))[1:-1]]


def _more_cells(line: str) -> str:
    return "".join(f" {cell} |" for cell in _cells(line)[1 + len(_COLUMNS) :])


def _order(key: str) -> tuple[str, str, str, str]:
    repo_id, _, revision = key.partition("@")
    return repo_id.casefold(), repo_id, revision.casefold(), revision


def escape(text: str) -> str:
    """Escape `text` for a cell of a Markdown table."""
    return _MARKUP.sub(r"\\\1", printable(text))


def _code(text: str) -> str:
    """Return `text` as code, unless it contains characters that code in a table cannot contain."""
    text = printable(text)
    return escape(text) if set("`|\\") & set(text) else f"`{text}`"


def merge(base: str, ours: str, theirs: str) -> str | None:
    """Return `ours` with the changes of `theirs` since `base`; None if both changed the lines of users.

    Rows are merged by key. If both changed a row, the one of the newer commit wins.
    """
    prose = without_rows(base)
    if without_rows(theirs) == prose:
        return _apply(parse(base), parse(theirs), ours)
    if without_rows(ours) == prose:
        return _apply(parse(base), parse(ours), theirs)
    if without_rows(ours) == without_rows(theirs):
        return _apply(parse(base), parse(theirs), ours)
    return None


def _apply(base: dict[str, str], changed: dict[str, str], text: str) -> str | None:
    """Return `text` with the rows of `changed` that differ from `base`, and without those missing in `changed`.

    None if `text` no longer has a table for them.
    """
    for key in base.keys() - changed.keys():
        if parse(text).get(key) == base[key]:
            text = put(text, key, None)
    for key, line in changed.items():
        present = parse(text).get(key)
        if line == base.get(key) or line == present:
            continue
        if present is None or present == base.get(key) or date_of(line) >= date_of(present):
            text = put(text, key, line)
    lost = {key for key, line in changed.items() if line != base.get(key)} - parse(text).keys()
    return None if lost else text
