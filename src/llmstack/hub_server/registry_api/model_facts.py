"""What artifacts say about a model: read from its config.json and its GGUF headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Revision
from llmstack.oci.spec import parse_object

_CONFIG = "config.json"
_MAX_CONFIG = 1024 * 1024
# PyTorch's names; all other precisions of the model-spec have the same name there.
_PRECISIONS = {"float8_e4m3fn": "float8_e4m3", "half": "float16", "float": "float32"}
_MAX_WORD = 100


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model; None for those that are unknown. `parameters` is their number."""

    architecture: str | None = None
    parameters: int | None = None
    precision: str | None = None
    quantization: str | None = None
    chat_template: str | None = None


def read_facts(repo_index: RepoIndex, revision: Revision) -> ModelFacts:
    """Return the facts in config.json; none if it is missing or invalid. Raises what reading raises.

    The facts depend on the files only: a digest must not change because a registry does not answer.
    """
    data = repo_index.read(revision, _CONFIG, _MAX_CONFIG)
    try:
        config = parse_object(data or b"{}", _CONFIG)
    except IntegrityError:
        return ModelFacts()
    precision = _word(config, "torch_dtype") or _word(config, "dtype")
    quantized = config.get("quantization_config")
    return ModelFacts(
        architecture=_word(config, "model_type"),
        precision=_PRECISIONS.get(precision, precision) if precision else None,
        quantization=_word(quantized, "quant_method") if isinstance(quantized, dict) else None,
    )


def _word(value: Mapping[str, Any], name: str) -> str | None:
    word = value.get(name)
    return word if isinstance(word, str) and word.isprintable() and 0 < len(word) <= _MAX_WORD else None


def short_number(number: int) -> str:
    """Return a number of parameters as the model-spec writes it: `8.0B`, `494M`."""
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "K")):
        if number >= 10**power:
            value = number / 10**power
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return str(number)
