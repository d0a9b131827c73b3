"""README.zh-CN.md says what README.md says, section by section: the same commands, links, numbers and tables."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
# A number with its unit, where the unit is no word.
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?: ?(?:[KMG]B|GiB)\b)?", re.ASCII)


@dataclass
class Section:
    """What of a section is the same in every language."""

    level: int
    blocks: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    # The cells of each row of a table; a list's items count as rows of one cell.
    rows: list[int] = field(default_factory=list)


def sections(path: Path) -> list[Section]:
    """Return a README's sections; the links between the languages are left out."""
    found: list[Section] = []
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text()):
        if token.type == "heading_open":
            found.append(Section(int(token.tag[1])))
        elif token.type in {"code_block", "fence"}:
            found[-1].blocks.append(token.content)
        elif token.type in {"tr_open", "list_item_open"}:
            found[-1].rows.append(0)
        elif token.type in {"td_open", "th_open"}:
            found[-1].rows[-1] += 1
        for child in token.children or ():
            add(found[-1], child)
    return found


def add(section: Section, token: Token) -> None:
    if token.type == "code_inline":
        section.codes[token.content] += 1
    elif token.type == "link_open" and token.attrs["href"] not in {ENGLISH.name, CHINESE.name}:
        section.links[str(token.attrs["href"])] += 1
    elif token.type == "text":
        section.numbers.update(NUMBER.findall(token.content))


def test_the_languages_have_the_same_sections():
    assert [section.level for section in sections(CHINESE)] == [section.level for section in sections(ENGLISH)]


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
def test_a_section_says_the_same_in_both_languages(number: int):
    assert sections(CHINESE)[number] == sections(ENGLISH)[number]


@pytest.mark.parametrize(("path", "other"), [(ENGLISH, CHINESE), (CHINESE, ENGLISH)])
def test_each_language_leads_to_the_other_and_to_files_that_are_there(path: Path, other: Path):
    text = path.read_text()
    assert f"]({other.name})" in text.partition("\n## ")[0]
    # Beside Chinese punctuation emphasis needs a space to be seen as one.
    assert "**" not in MarkdownIt("commonmark").render(text)
    for section in sections(path):
        for link in section.links:
            assert link.startswith("https://") or (ROOT / link).exists(), link
