"""Meta's params.json, and the Llama version of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.llama.checkpoint_files import check_content
from llmstack.oci.spec import parse_object

# Far above every Llama model, and small enough to plan with.
_MAX_SIZE = 2**31 - 1
_MAX_LAYERS = 10_000
_DAMAGED = "copy params.json again; it is damaged or truncated"


class Version(StrEnum):
    """The supported Llama versions."""

    V1 = "1"
    V2 = "2"
    V3 = "3"
    V3_1 = "3.1"
    V3_2 = "3.2"

    @property
    def tiktoken(self) -> bool:
        """Whether the version has a tiktoken vocabulary; else it has a SentencePiece model."""
        return self not in {Version.V1, Version.V2}

    @property
    def context_length(self) -> int:
        """The context length that the version was trained with, in tokens."""
        return {Version.V1: 2048, Version.V2: 4096, Version.V3: 8192}.get(self, 131072)


@dataclass(frozen=True, slots=True)
class Params:
    """The shapes and constants of one model. `vocab_size` is None if params.json does not set it."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    intermediate_size: int
    norm_eps: float
    rope_theta: float | None
    scaled_rope: bool
    vocab_size: int | None

    @property
    def head_dim(self) -> int:
        """The size of one attention head."""
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        """The size of all key (or value) heads together."""
        return self.head_dim * self.n_kv_heads


def read_params(path: Path) -> Params:
    """Read a params.json; raises IntegrityError, naming the entry, if it is not of a Llama text model."""
    data = path.read_bytes()
    check_content(path, data)
    try:
        # Some editors write UTF-16 or a byte order mark.
        text = data.decode(json.detect_encoding(data)).strip()
        if not text.startswith("{"):
            raise IntegrityError(
                f"{path}: not a JSON object: it begins with {text.splitlines()[0][:40]!r}" if text else f"{path}: empty"
            )
        value = parse_object(text.encode(), str(path))
        # In some releases, the entries are nested under "model".
        entries = value.get("model", value)
        if not isinstance(entries, dict):
            raise IntegrityError(f"{path}: model must be a JSON object")
        return _parse(entries)
    except KeyError as error:
        raise IntegrityError(f"{path}: entry {error} is missing") from error
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: not text: {error}", hint=_DAMAGED) from error
    except IntegrityError as error:
        raise IntegrityError(error.message, hint=_DAMAGED) from error
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}") from error


def _parse(value: dict[str, Any]) -> Params:
    dim, n_layers, n_heads = (_count(value, name) for name in ("dim", "n_layers", "n_heads"))
    n_kv_heads = n_heads if value.get("n_kv_heads") is None else _count(value, "n_kv_heads")
    if dim % n_heads or (dim // n_heads) % 2 or n_heads % n_kv_heads:
        raise ValueError(f"dim {dim}, n_heads {n_heads} and n_kv_heads {n_kv_heads} contradict each other")
    multiple_of = _count(value, "multiple_of")
    multiplier = 1.0 if value.get("ffn_dim_multiplier") is None else _number(value, "ffn_dim_multiplier")
    vocab_size = value.get("vocab_size", -1)
    return Params(
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        intermediate_size=_intermediate_size(dim, multiple_of, multiplier),
        norm_eps=_number(value, "norm_eps"),
        rope_theta=None if value.get("rope_theta") is None else _number(value, "rope_theta"),
        scaled_rope=bool(value.get("use_scaled_rope", False)),
        vocab_size=None if vocab_size is None or vocab_size == -1 else _count(value, "vocab_size"),
    )


def _count(value: dict[str, Any], name: str) -> int:
    number, limit = value[name], _MAX_LAYERS if name == "n_layers" else _MAX_SIZE
    if type(number) is not int or not 0 < number <= limit:
        raise ValueError(f"{name} is {repr(number)[:40]}, must be an integer from 1 to {limit:,}")
    return number


def _number(value: dict[str, Any], name: str) -> float:
    number = value[name]
    if type(number) not in {int, float} or not 0 < number <= _MAX_SIZE:
        raise ValueError(f"{name} is {repr(number)[:40]}, must be a number above 0, up to {_MAX_SIZE:,}")
    return float(number)


def _intermediate_size(dim: int, multiple_of: int, multiplier: float) -> int:
    """Return the width of the feed-forward layers, rounded as in Meta's reference model."""
    size = int(multiplier * int(8 * dim / 3))
    return multiple_of * ((size + multiple_of - 1) // multiple_of)


def detect_version(params: Params, *, tiktoken: bool, tied: bool) -> tuple[Version, str]:
    """Return the version of a checkpoint, and the reason.

    `tiktoken`: its tokenizer.model is a tiktoken vocabulary. `tied`: its output layer equals its embeddings.
    """
    if tiktoken and params.scaled_rope:
        if tied:
            return Version.V3_2, "scaled RoPE, output tied to the embeddings"
        return Version.V3_1, "scaled RoPE, output not tied to the embeddings"
    if tiktoken:
        return Version.V3, "tiktoken vocabulary, no scaled RoPE"
    if params.n_kv_heads != params.n_heads:
        return Version.V2, "SentencePiece model, grouped-query attention"
    if params.norm_eps > 5e-6:
        # LLaMA 65B, of version 1, has this epsilon too.
        return Version.V2, f"SentencePiece model, norm_eps {params.norm_eps:g}"
    return Version.V1, f"SentencePiece model, norm_eps {params.norm_eps:g}"
