"""The front matter of a README: the YAML of a model card, with tags, task, library and license."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from llmstack.hf.snapshot import MAX_STRING
from llmstack.safe_yaml import YamlError, parse_yaml

README = "README.md"
# The parser takes long for more.
MAX_CARD = 64 * 1024
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)


def parse_card(readme: str) -> dict[str, Any]:
    """Return a README's front matter as values that JSON has; empty if it is missing or invalid."""
    match = _FRONT_MATTER.match(readme.removeprefix("\ufeff"))
    return _parse(match[1]) if match and len(match[1]) <= MAX_CARD else {}


def split_card(text: str) -> str:
    """Return a README without its front matter."""
    text = text.removeprefix("\ufeff")
    match = _FRONT_MATTER.match(text)
    return text[match.end() :] if match else text


def license_of(declared: object, name: object) -> str | None:
    """Return the license of a card from its fields `license` and `license_name`: the name if the license is `other`."""
    if declared == "other":
        declared = name or declared
    if isinstance(declared, list):
        declared = " OR ".join(map(str, declared))
    return None if declared is None else str(declared)[:MAX_STRING].encode(errors="replace").decode()


@lru_cache(maxsize=256)
def _parse(text: str) -> dict[str, Any]:
    try:
        value = parse_yaml(text)
    except YamlError:
        return {}
    return {str(key): _plain(item) for key, item in value.items()} if isinstance(value, dict) else {}


def _plain(value: object) -> object:
    """Convert values that JSON does not have (dates, infinity, keys that are not strings)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        # JSON has neither NaN nor infinity, and JavaScript no larger integers.
        return value if abs(value) < 2**53 else None
    return str(value)
