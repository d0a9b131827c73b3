"""README.zh-CN.md has the same commands, links, numbers and tables as README.md, section by section."""

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
# A number, with its unit if the unit is not a word.
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?: ?(?:[KMG]B|GiB)\b)?", re.ASCII)


@dataclass
class Section:
    """The parts of a section that are the same in every language."""

    level: int
    blocks: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    # Number of cells in each table row; a list item is a row.
    rows: list[int] = field(default_factory=list)


def sections(path: Path) -> list[Section]:
    """Return a README's sections, without the links between the languages."""
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


def test_both_languages_have_the_same_sections():
    assert [section.level for section in sections(CHINESE)] == [section.level for section in sections(ENGLISH)]


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
def test_section_has_same_commands_links_and_numbers_in_both_languages(number: int):
    assert sections(CHINESE)[number] == sections(ENGLISH)[number]


@pytest.mark.parametrize(("path", "other"), [(ENGLISH, CHINESE), (CHINESE, ENGLISH)])
def test_links_lead_to_the_other_language_and_to_existing_files(path: Path, other: Path):
    text = path.read_text()
    assert f"]({other.name})" in text.partition("\n## ")[0]
    # Next to Chinese punctuation, emphasis may need a space to be parsed.
    assert "**" not in MarkdownIt("commonmark").render(text)
    for section in sections(path):
        for link in section.links:
            assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize("path", [ENGLISH, CHINESE])
def test_readme_is_short_and_names_the_two_commands(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) < 150
    assert "    make demo " in text
    assert "    make test " in text
