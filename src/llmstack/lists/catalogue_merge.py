"""Merge two versions of a catalogue by its rows, as a merge driver of git (gitattributes, "merge driver")."""

from __future__ import annotations

from llmstack.lists.catalogue import date_of, parse, put, without_rows


def merge(base: str, ours: str, theirs: str) -> str | None:
    """Return `ours` with the changes of `theirs` since `base`; None if both changed the lines of people.

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
