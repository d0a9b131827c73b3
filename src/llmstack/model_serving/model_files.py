"""Which server can serve a repo, and with which of its files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename, splitext
from typing import Literal

from llmstack.errors import IntegrityError, NotFoundError, UsageError

ServerName = Literal["llama.cpp", "vllm"]
# As on the Hub: what `ollama pull` and `llama-server -hf` take without a tag.
DEFAULT_QUANTIZATION = "Q4_K_M"

_CONFIG, _ADAPTER_CONFIG = "config.json", "adapter_config.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})")
# GGUF files that are not a model: measurements for quantization, and vision or audio encoders.
_IMATRIX, _ENCODER = "imatrix", "mmproj"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files that a server loads.

    `weights` is the GGUF file, the first part of a split one; None for a directory of safetensors. `encoder` is the
    GGUF file of a multimodal model's encoder. `needed` are all files that the server opens; empty for all files.
    """

    server: ServerName
    weights: str | None = None
    encoder: str | None = None
    needed: tuple[str, ...] = ()


def choose_files(name: str, paths: Iterable[str], server: ServerName | None, wanted: str | None) -> ModelFiles:
    """Return which server serves the files of a repo called `name`, and what it loads.

    `server` is the one to use, None for the one that the files are for. `wanted` is the path of a GGUF file, or a
    quantization. Raises UsageError with the reason if no server can serve them, NotFoundError if the file does not
    exist, IntegrityError if a part of it is missing.
    """
    found = sorted(paths)
    gguf = [path for path in found if path.endswith(".gguf")]
    if server == "vllm" or (server is None and not gguf):
        if wanted:
            raise UsageError(f"{name}: --file {wanted}: vLLM loads all files of a repo", hint="leave --file out")
        _check_safetensors(name, found)
        return ModelFiles("vllm")
    if not gguf:
        raise UsageError(f"{name}: cannot be served by llama.cpp: no GGUF file", hint="leave --engine out")
    weights = _choose(name, gguf, wanted)
    encoders = [path for path in gguf if _ENCODER in basename(path).lower()]
    # An encoder is small: the most precise usual type.
    encoder = next((path for path in encoders if _has_type(path, "F16")), encoders[0] if encoders else None)
    return ModelFiles("llama.cpp", weights[0], encoder, (*weights, *([encoder] if encoder else [])))


def _check_safetensors(name: str, paths: Sequence[str]) -> None:
    if _CONFIG in paths and any(path.endswith(".safetensors") for path in paths):
        return
    raise UsageError(f"{name}: cannot be served: {_reason(paths)}", hint=_advice(paths))


def _reason(paths: Sequence[str]) -> str:
    endings = {splitext(path)[1] for path in paths}
    if _ADAPTER_CONFIG in paths and _CONFIG not in paths:
        return "it is an adapter without its base model"
    if ".safetensors" in endings:
        return f"no {_CONFIG} next to its safetensors files, so it is not a language model that vLLM can load"
    if endings & _PICKLES:
        return "its weights are pickles only, which can run code when they are loaded"
    return "no GGUF and no safetensors files"


def _advice(paths: Sequence[str]) -> str:
    if _ADAPTER_CONFIG in paths and _CONFIG not in paths:
        return "merge it into its base model, or serve the base model with vLLM's options after --"
    return "carry a revision or a repo with safetensors or GGUF files"


def _choose(name: str, gguf: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """Return the parts of the GGUF model to load, in order; one if it is not split."""
    models = _models(gguf)
    if wanted in gguf or (wanted and wanted.endswith(".gguf")):
        matching = [key for key, parts in models.items() if any(wanted in {part, basename(part)} for part in parts)]
    elif wanted:
        matching = [key for key in models if _has_type(key, wanted)]
    else:
        matching = list(models)
        if len(matching) > 1:
            matching = [key for key in matching if _has_type(key, DEFAULT_QUANTIZATION)]
    if len(matching) != 1:
        listed = _list(matching or list(models))
        if wanted and not matching:
            raise NotFoundError(f"{name}: --file {wanted}: no such GGUF file or quantization", hint=f"it has {listed}")
        cause = f"several GGUF files{f' of {wanted}' if wanted else ''}" if models else "no GGUF file of a model"
        raise UsageError(f"{name}: {cause}", hint=f"add --file with one of {listed}" if models else None)
    parts = models[matching[0]]
    _check_parts(name, parts)
    return parts


def _models(gguf: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the parts of each model by its path without the numbers of parts and `.gguf`."""
    models: dict[str, list[str]] = {}
    for path in gguf:
        if _IMATRIX in basename(path).lower() or _ENCODER in basename(path).lower():
            continue
        stem = path.removesuffix(".gguf")
        split = _SPLIT.fullmatch(stem)
        models.setdefault(split["stem"] if split else stem, []).append(path)
    return {key: tuple(parts) for key, parts in models.items()}


def _check_parts(name: str, parts: Sequence[str]) -> None:
    split = _SPLIT.fullmatch(parts[0].removesuffix(".gguf"))
    if not split:
        return
    count = int(split["count"])
    expected = [f"{split['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    missing = sorted(set(expected) - set(parts))
    if missing:
        raise IntegrityError(
            f"{name}: {missing[0]} is missing: {len(parts)} of {count} parts were carried",
            hint="carry all parts: check --include and --exclude of the ferry",
        )


def _has_type(path: str, quantization: str) -> bool:
    """Tell whether a file's name ends with a quantization (`model-Q4_K_M.gguf`), or its directory has that name."""
    pattern = rf"(?:^|[-._/]){re.escape(quantization)}(?:/[^/]*)?"
    return re.search(rf"{pattern}$", path.removesuffix(".gguf"), re.IGNORECASE) is not None


def _list(stems: Sequence[str]) -> str:
    more = f" and {len(stems) - _SHOWN} more" if len(stems) > _SHOWN else ""
    return ", ".join(f"{stem}.gguf" for stem in stems[:_SHOWN]) + more
