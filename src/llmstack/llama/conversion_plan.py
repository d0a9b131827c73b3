"""Inspect a checkpoint and plan its conversion, without writing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.llama.checkpoint import Checkpoint
from llmstack.llama.checkpoint_files import CheckpointFiles, find_checkpoint
from llmstack.llama.model_config import context_length, model_config
from llmstack.llama.params import Params, Version, detect_version, read_params
from llmstack.llama.safetensors_files import ShardFile, parse_size, plan_files
from llmstack.llama.staging import check_output
from llmstack.llama.tokenizer import check_version, read_template, read_vocabulary
from llmstack.llama.tokenizer import save_tokenizer as write_tokenizer
from llmstack.llama.vocabulary import SpecialTokens, Vocabulary
from llmstack.llama.weights import OUTPUT, Weight, plan_groups
from llmstack.reporting import Reporter, human_size

DTYPES = ("auto", "float32", "float16", "bfloat16")
# For tokenizer.json and the configuration. Llama 3's tokenizer.json, the largest, has 17 MB.
_SMALL_FILES = 32 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What to convert; the fields are the command's options. `version` None: detect it."""

    input_dir: Path
    output_dir: Path
    model_size: str | None = None
    version: Version | None = None
    num_shards: int | None = None
    instruct: bool = False
    chat_template: Path | None = None
    dtype: str = "auto"
    max_shard_size: str = "5GB"
    tokenizer_only: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerPlan:
    """The tokenizer to write."""

    original: Path
    vocabulary: Vocabulary
    version: Version
    specials: SpecialTokens
    context_length: int
    template: str | None

    def write(self, directory: Path) -> None:
        """Write its files into a directory."""
        write_tokenizer(
            self.vocabulary,
            self.version,
            self.original,
            directory,
            specials=self.specials,
            context_length=self.context_length,
            template=self.template,
        )


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The weights to write, one group per layer, and the contents of config.json."""

    checkpoint: Checkpoint
    groups: tuple[tuple[Weight, ...], ...]
    files: tuple[ShardFile, ...]
    dtype: str
    config: dict[str, Any]

    @property
    def size(self) -> int:
        """The bytes of all files to write."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What will be converted. `model` is None if only the tokenizer is."""

    output: Path
    tokenizer: TokenizerPlan
    model: ModelPlan | None

    def lines(self) -> list[str]:
        """Describe the plan, one fact per line."""
        version, vocabulary = self.tokenizer.version, self.tokenizer.vocabulary
        kind = "tiktoken" if vocabulary.tiktoken else "SentencePiece"
        lines = [f"version: {version}", f"tokenizer: {kind}, {vocabulary.size} tokens"]
        if self.model:
            config, files = self.model.config, self.model.files
            heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
            plural = "s" if len(files) > 1 else ""
            lines += [
                f"layers: {config['num_hidden_layers']}",
                f"hidden size: {config['hidden_size']}, feed-forward {config['intermediate_size']}",
                f"heads: {heads}, key-value heads {kv_heads}",
                f"context: {config['max_position_embeddings']} tokens",
                f"weights: {human_size(self.model.size)} as {self.model.dtype} in {len(files)} file{plural}",
                *(f"  {file.name}: {human_size(file.size)}, {len(file.weights)} tensors" for file in files),
            ]
        return [*lines, f"output: {self.output}"]


def plan_conversion(request: ConversionRequest, reporter: Reporter) -> ConversionPlan:
    """Inspect the checkpoint and plan its conversion.

    Raises UsageError, NotFoundError, IntegrityError; UnavailableError if the disk has too little space.
    """
    check_output(request.output_dir)
    if request.instruct != (request.chat_template is not None):
        raise UsageError(
            "--instruct and --chat_template FILE require each other",
            hint="write the model's template, `chat_template` in its tokenizer_config.json, to a file",
        )
    template = read_template(request.chat_template) if request.chat_template else None
    limit = parse_size(request.max_shard_size)
    files = find_checkpoint(request.input_dir, request.model_size, tokenizer_only=request.tokenizer_only)
    vocabulary = read_vocabulary(files.tokenizer)
    params = read_params(files.params) if files.params.is_file() else None
    checkpoint = None if request.tokenizer_only else _open(files, request, reporter)
    version = _version(request, params, vocabulary, checkpoint, reporter)
    tokenizer = TokenizerPlan(
        original=files.tokenizer,
        vocabulary=vocabulary,
        version=version,
        specials=vocabulary.specials(version, instruct=request.instruct),
        context_length=context_length(params, version) if params else version.context_length,
        template=template,
    )
    model = None
    if checkpoint and params:
        model = _plan_model(checkpoint, params, tokenizer, request.dtype, limit)
        _check_disk(request.output_dir, model.size + _SMALL_FILES)
    return ConversionPlan(request.output_dir, tokenizer, model)


def _open(files: CheckpointFiles, request: ConversionRequest, reporter: Reporter) -> Checkpoint:
    shards = files.shards(request.num_shards)
    size = sum(path.stat().st_size for path in shards)
    plural = "s" if len(shards) > 1 else ""
    reporter.note(f"Fetching parameters from {files.directory} ({len(shards)} shard{plural}, {human_size(size)})")
    return Checkpoint(shards, reporter.warn)


def _version(
    request: ConversionRequest,
    params: Params | None,
    vocabulary: Vocabulary,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> Version:
    detected = None
    if params:
        # Only versions with scaled RoPE differ in this, and it costs reading both matrices.
        tied = params.scaled_rope and checkpoint is not None and request.version is None and checkpoint.tied()
        detected, reason = detect_version(params, tiktoken=vocabulary.tiktoken, tied=tied)
        if request.version is None:
            reporter.note(f"Detected Llama {detected} ({reason}); set --llama_version if this is wrong")
    version = request.version or detected
    if version is None:
        raise UsageError("the version cannot be detected without a params.json", hint="set --llama_version")
    check_version(vocabulary, version)
    if params and params.scaled_rope != (version in {Version.V3_1, Version.V3_2}):
        reporter.warn(f"params.json: use_scaled_rope {str(params.scaled_rope).lower()} is unusual for Llama {version}")
    return version


def _plan_model(checkpoint: Checkpoint, params: Params, tokenizer: TokenizerPlan, dtype: str, limit: int) -> ModelPlan:
    headers = checkpoint.headers()
    absent = all(OUTPUT not in header for header in headers)
    tied = absent or (tokenizer.version is Version.V3_2 and checkpoint.tied())
    groups = plan_groups(params, headers, tied=tied)
    vocab_size = groups[0][0].shape[0]
    if tokenizer.vocabulary.size != vocab_size:
        raise IntegrityError(
            f"{tokenizer.original}: {tokenizer.vocabulary.size} tokens, but the model has {vocab_size}",
            hint="copy tokenizer.model again; it is truncated, or of another model",
        )
    if dtype == "auto":
        dtype = str(checkpoint.dtype()).removeprefix("torch.")
    if dtype not in DTYPES:
        raise IntegrityError(
            f"the weights have type {dtype}, which is not supported", hint=f"set --dtype: {', '.join(DTYPES[1:])}"
        )
    config = model_config(
        params, tokenizer.version, vocab_size=vocab_size, dtype=dtype, tied=tied, specials=tokenizer.specials
    )
    shard_files = plan_files((weight for group in groups for weight in group), dtype, limit)
    return ModelPlan(checkpoint, tuple(tuple(group) for group in groups), shard_files, dtype, config)


def _check_disk(output: Path, needed: int) -> None:
    existing = output.absolute()
    while not existing.exists():
        existing = existing.parent
    disk = shutil.disk_usage(existing)
    # Some FUSE file systems do not report their size: all fields are zero.
    if disk.total and disk.free < needed:
        raise UnavailableError(
            f"{output}: {human_size(needed)} are needed, {human_size(disk.free)} are free",
            hint="free some space, or choose a directory on a larger disk",
        )
