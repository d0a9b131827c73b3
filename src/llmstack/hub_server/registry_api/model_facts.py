"""What artifacts say about a model: read from its config.json and its GGUF headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.gguf_files import GgufModel
from llmstack.errors import IntegrityError
from llmstack.hub_server.facts_index import FactsIndex
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Revision
from llmstack.oci.spec import parse_object

_CONFIG = "config.json"
_MAX_CONFIG = 1024 * 1024
# PyTorch's names; all other precisions of the model-spec have the same name there.
_PRECISIONS = {"float8_e4m3fn": "float8_e4m3", "half": "float16", "float": "float32"}
# llama.cpp's file types (enum llama_ftype), for GGUF files without a quantization in their name.
_FILE_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4_MOE"), 36)),
}
_MAX_WORD = 100


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model; None for those that are unknown. `parameters` is their number."""

    architecture: str | None = None
    parameters: int | None = None
    precision: str | None = None
    quantization: str | None = None
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class FactsReader:
    """Reads the facts of models.

    They depend on the files only: a digest must not change because a registry does not answer. So all methods raise
    what reading raises. A file that is missing or invalid has no facts.
    """

    repo_index: RepoIndex
    facts_index: FactsIndex

    def of_repo(self, revision: Revision) -> ModelFacts:
        """Return the facts of all files of a repo, by its config.json and the headers of its weights."""
        facts, weights = self._from_config(revision), self.facts_index.weights(revision)
        if header := weights.gguf:
            return replace(facts, architecture=header.architecture or facts.architecture, parameters=header.total)
        return replace(facts, parameters=weights.total or None)

    def of_model(self, revision: Revision, model: GgufModel[IndexedFile]) -> ModelFacts:
        """Return the facts of one GGUF model of a repo."""
        headers = [self.facts_index.gguf(revision, file.path) for file in model.files]
        found = [header for header in headers if header]
        if not found or len(found) < len(headers):
            return ModelFacts(quantization=model.label or None)
        first = found[0]
        return ModelFacts(
            architecture=first.architecture,
            parameters=sum(header.total for header in found),
            quantization=model.label or _FILE_TYPES.get(-1 if first.file_type is None else first.file_type),
            chat_template=first.chat_template,
        )

    def _from_config(self, revision: Revision) -> ModelFacts:
        data = self.repo_index.read(revision, _CONFIG, _MAX_CONFIG)
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
