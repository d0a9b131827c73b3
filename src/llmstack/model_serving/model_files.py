"""Which server can serve a repo, and with which of its files. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from posixpath import splitext
from typing import Literal

from llmstack.carried_image.gguf_files import LATEST, GgufModel, RepoFile, find_model, gguf_models, labels, projector
from llmstack.errors import IntegrityError, NotFoundError, UsageError

ServerName = Literal["llama.cpp", "vllm"]
_CONFIG, _ADAPTER_CONFIG = "config.json", "adapter_config.json"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files that a server loads.

    `weights` is the GGUF file, the first one of several shards; None for a directory of safetensors. `encoder` is the
    GGUF file of a multimodal model's encoder. `needed` are all files that the server opens; empty for all files.
    """

    server: ServerName
    weights: str | None = None
    encoder: str | None = None
    needed: tuple[str, ...] = ()


def choose_files(
    name: str,
    files: Iterable[RepoFile],
    server: ServerName | None,
    wanted: str | None,
    in_parts: frozenset[str] = frozenset(),
) -> ModelFiles:
    """Return which server serves the files of a repo called `name`, and what it loads.

    `server` is the one to use, None for the one that the files are for. `wanted` is a GGUF file or a quantization; None
    for what the hub calls `latest`. Files `in_parts` are not proposed. Raises UsageError with the reason if no server
    can serve them, NotFoundError if the file does not exist, IntegrityError if a shard of it is missing.
    """
    found = list(files)
    models = gguf_models(found)
    if server == "vllm" or (server is None and not models):
        if wanted:
            raise UsageError(f"{name}: --file {wanted}: vLLM loads all files of a repo", hint="leave --file out")
        _check_safetensors(name, [file.path for file in found], server)
        return ModelFiles("vllm")
    if not models:
        raise UsageError(f"{name}: cannot be served by llama.cpp: no GGUF file", hint="leave --engine out")
    model = _choose(name, models, wanted, in_parts)
    encoder = projector(found)
    return ModelFiles(
        server="llama.cpp",
        weights=model.files[0].path,
        encoder=encoder.path if encoder else None,
        needed=(*(file.path for file in model.files), *([encoder.path] if encoder else [])),
    )


def _choose(
    name: str, models: Sequence[GgufModel[RepoFile]], wanted: str | None, in_parts: frozenset[str]
) -> GgufModel[RepoFile]:
    by_path = (model for model in models if wanted in {file.path for file in model.files})
    model = next(by_path, None) or find_model(models, wanted or LATEST)
    if model is None:
        raise NotFoundError(
            f"{name}: --file {wanted}: no such GGUF file or quantization", hint=_available(models, in_parts)
        )
    if missing := model.missing:
        count = len(model.files)
        raise IntegrityError(
            f"{name}: {missing[0]} is missing: {count} of {count + len(missing)} files were carried",
            hint="carry all of them: check --include and --exclude of the ferry",
        )
    return model


def _available(models: Sequence[GgufModel[RepoFile]], in_parts: frozenset[str]) -> str:
    """Return what --file accepts: an incomplete model and one in parts cannot be loaded."""
    tags = [
        tag
        for tag in labels(models)
        if (model := find_model(models, tag))
        and not model.missing
        and in_parts.isdisjoint(file.path for file in model.files)
    ]
    return f"it has {', '.join(tags)}" if tags else "it has no GGUF file that llama.cpp can load from the image"


def _check_safetensors(name: str, paths: Sequence[str], server: ServerName | None) -> None:
    if _CONFIG in paths and any(path.endswith(".safetensors") for path in paths):
        return
    by = f" by {server}" if server else ""
    raise UsageError(f"{name}: cannot be served{by}: {_reason(paths)}", hint=_advice(paths))


def _reason(paths: Sequence[str]) -> str:
    endings = {splitext(path)[1] for path in paths}
    if _ADAPTER_CONFIG in paths and _CONFIG not in paths:
        return "it is an adapter without its base model"
    if ".safetensors" in endings:
        return f"no {_CONFIG} next to its safetensors files, so it is not a language model that vLLM can load"
    if ".gguf" in {ending.lower() for ending in endings}:
        return "no safetensors files"
    if endings & _PICKLES:
        return "its weights are pickles only, which can run code when they are loaded"
    return "no GGUF and no safetensors files"


def _advice(paths: Sequence[str]) -> str:
    if _ADAPTER_CONFIG in paths and _CONFIG not in paths:
        return "merge it into its base model, or serve the base model with vLLM's options after --"
    if any(path.lower().endswith(".gguf") for path in paths):
        return "serve its GGUF files with llama.cpp: leave --engine out"
    return "carry a revision or a repo with safetensors or GGUF files"
