"""What a page says of a model in numbers: parameters, data type, context length, GGUF quantizations. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.carried_image.gguf_files import GgufModel, gguf_models
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hub_server.pages.snippets import namespace_of, on_registry
from llmstack.hub_server.repo_facts import Weights
from llmstack.hub_server.repos import Files, Revision

# A longer table is of no use to a person.
MAX_QUANTIZATIONS = 100
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
# How the configs of the families name the number of tokens.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
# Tokenizers and configs say 10**30 for "no limit".
_MAX_CONTEXT = 10**9
_BITS = re.compile(r"(?:UD-)?(?:IQ|TQ|Q|BF|FP|F|MXFP|NVFP)(\d+)")


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a model; None for what is unknown."""

    parameters: str | None = None
    dtype: str | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Quantization:
    """A GGUF model of a repo: its first file, and the commands that run it. `bits` are those that its type names."""

    path: str
    label: str
    bits: str
    size: int
    files: int
    is_complete: bool
    commands: tuple[str, ...]


def numbers_of(weights: Weights, config: Mapping[str, Any]) -> Numbers:
    """Return the numbers of a model from its weights' headers and its config.json."""
    total, counts = weights.total, weights.safetensors or {}
    dtype = max(counts, key=lambda name: counts[name], default=None)
    text = config.get("text_config")
    parts = [config, *([text] if isinstance(text, dict) else [])]
    declared = [part.get(name) for part in parts for name in ("dtype", "torch_dtype")]
    context = [part.get(name) for part in parts for name in _CONTEXT]
    if weights.gguf:
        context.insert(0, weights.gguf.context_length)
    return Numbers(
        counted(total) if total else None,
        dtype or next((name[:32] for name in declared if isinstance(name, str)), None),
        next((value for value in context if type(value) is int and 0 < value <= _MAX_CONTEXT), None),
    )


def counted(number: int) -> str:
    """Return a number of parameters as people say it: 7.6B."""
    for unit, name in _UNITS:
        if number >= unit:
            value = number / unit
            return f"{value:.0f}{name}" if value >= 99.95 else f"{value:.1f}{name}"
    return str(number)


def quantizations(revision: Revision, files: Files, endpoint: str | None) -> list[Quantization]:
    """Return the GGUF models of a repo; their commands use the hub if it has a URL for clients."""
    found = gguf_models(files.in_order())[:MAX_QUANTIZATIONS] if revision.repo_type == "model" else []
    labels = [model.label for model in found]
    return [_quantization(revision, model, endpoint, labels.count(model.label) == 1) for model in found]


def _quantization(revision: Revision, model: GgufModel[Any], endpoint: str | None, is_only: bool) -> Quantization:
    path = model.files[0].path
    bits = _BITS.match(model.label)
    commands = []
    # A tag names a quantization of the default revision.
    if model.label and is_only and endpoint and revision.name == DEFAULT_REVISION and not model.missing:
        tagged = f"{revision.repo_id}:{model.label}"
        commands.append(f"HF_ENDPOINT={shlex.quote(endpoint)} llama-server -hf {shlex.quote(tagged)}")
        host = on_registry(endpoint)
        if host and not model.is_sharded:
            commands.append(f"ollama run {host[0]}{shlex.quote(f'{host[1]}/{tagged}')}")
    if not revision.image.startswith("oci:") and not model.missing:
        repo = revision.repo_id if revision.name == DEFAULT_REVISION else f"{revision.repo_id}@{revision.name}"
        commands.append(shlex.join(["llmstack", "serve", repo, "--file", path, "--from", str(namespace_of(revision))]))
    return Quantization(
        path, model.label, bits[1] if bits else "", model.size, len(model.files), not model.missing, tuple(commands)
    )
