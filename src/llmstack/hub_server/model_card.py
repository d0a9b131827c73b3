"""The YAML at the head of a README.md, as the Hub tells it of a repo: tags, task, library, license and the like."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from llmstack.errors import LlmstackError
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Revision
from llmstack.safe_yaml import YamlError, parse_yaml

README = "README.md"
MAX_README = 1024 * 1024
# Cards are short; what is longer takes the parser long.
_MAX_CARD = 64 * 1024
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)


def card_of(shelf: RepoIndex, revision: Revision) -> dict[str, Any]:
    """Return a repo's card; empty where there is none, or none that can be read now."""
    try:
        data = shelf.read(revision, README, MAX_README)
    except LlmstackError:
        return {}
    return parse_card((data or b"").decode(errors="replace"))


def parse_card(text: str) -> dict[str, Any]:
    """Return the YAML at a README's head as what JSON can hold; empty where there is none that is sound."""
    match = _FRONT_MATTER.match(text.removeprefix("\ufeff"))
    return _parse(match[1]) if match and len(match[1]) <= _MAX_CARD else {}


@lru_cache(maxsize=256)
def _parse(text: str) -> dict[str, Any]:
    try:
        value = parse_yaml(text)
    except YamlError:
        return {}
    return {str(key): _plain(item) for key, item in value.items()} if isinstance(value, dict) else {}


def split_card(text: str) -> str:
    """Return a README without its card."""
    text = text.removeprefix("\ufeff")
    match = _FRONT_MATTER.match(text)
    return text[match.end() :] if match else text


def _plain(value: object) -> object:
    """Turn what YAML knows and JSON does not (dates, odd keys, infinity) into text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        # No number of another kind is one in JSON.
        return value if abs(value) < 2**53 else None
    return str(value)
