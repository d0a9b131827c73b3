"""Formulas in Markdown, shown as their TeX source: as code, so that Markdown does not change it.

The delimiters are those of model cards: `$a$`, `$$a$$`, and parentheses or brackets after two backslashes.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

CLASS = "math"
# A longer text between dollar signs is no formula.
_MAX_FORMULA = 2000
_MAX_LINES = 50
_ENDS = {"$$": "$$", "\\\\(": "\\\\)", "\\\\[": "\\\\]", "$": "$"}


def add_math(markdown: MarkdownIt) -> MarkdownIt:
    """Let a parser read formulas."""
    markdown.inline.ruler.before("escape", "math", _inline)
    markdown.block.ruler.before("fence", "math", _block, {"alt": ["paragraph", "blockquote", "list"]})
    return markdown


def _inline(state: StateInline, silent: bool) -> bool:
    start = next((text for text in _ENDS if state.src.startswith(text, state.pos)), None)
    if start is None:
        return False
    first = state.pos + len(start)
    end = state.src.find(_ENDS[start], first, min(first + _MAX_FORMULA, state.posMax))
    formula = state.src[first:end] if end >= 0 else ""
    after = end + len(_ENDS[start])
    if not formula.strip() or (start == "$" and not _is_formula(formula, state.src[after : after + 1])):
        return False
    if not silent:
        token = state.push("code_inline", "code", 0)
        token.content = " ".join(formula.split())
        token.attrs["class"] = CLASS
    state.pos = after
    return True


def _is_formula(text: str, following: str) -> bool:
    """Tell whether a text between dollar signs is a formula, and not two prices."""
    return not (text[0].isspace() or text[-1].isspace() or following.isalnum())


def _block(state: StateBlock, start: int, stop: int, silent: bool) -> bool:
    """Read lines from one that begins with `$$` to one that ends with it."""
    if state.is_code_block(start):
        return False
    found: list[str] = []
    for number in range(start, min(stop, start + _MAX_LINES)):
        if state.sCount[number] < state.blkIndent:
            return False
        line = state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].strip()
        if number == start:
            if not line.startswith("$$"):
                return False
            line = line[2:]
        if line.endswith("$$"):
            found.append(line[:-2])
            break
        if "$$" in line:
            return False
        found.append(line)
    else:
        return False
    formula = "\n".join(found).strip()
    if not formula or "$$" in formula:
        return False
    if not silent:
        token = state.push("code_block", "code", 0)
        token.content = formula
        token.attrs["class"] = CLASS
        token.map = [start, number + 1]
    state.line = number + 1
    return True
