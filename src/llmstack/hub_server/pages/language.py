"""The texts of the pages in each language, and the choice of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

DEFAULT = "en"
# The values of the `lang` attribute.
NAMES: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}
_FOLDER = Path(__file__).parent / "texts"
TEXTS: Mapping[str, Mapping[str, str]] = {
    name: yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) for name in NAMES
}

Translate = Callable[..., str]


def translator(language: str) -> Translate:
    """Return a function that formats the text of a key in a language; it raises KeyError."""
    texts = TEXTS[language]

    def translate(key: str, **fields: object) -> str:
        return texts[key].format(**fields)

    return translate


def choose_language(accepted: str) -> str:
    """Return the available language that an Accept-Language header prefers (RFC 9110, section 12.5.4)."""
    best, best_weight = DEFAULT, 0.0
    for item in accepted.split(","):
        tag, _, parameter = item.partition(";")
        name = tag.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if name in NAMES and weight > best_weight:
            best, best_weight = name, weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
