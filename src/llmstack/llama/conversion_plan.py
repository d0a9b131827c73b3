"""Looking at a checkpoint and planning its conversion; nothing is written here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstack.errors import IntegrityError, UnavailableError, UsageError
from llmstack.llama.checkpoint import Checkpoint
from llmstack.llama.checkpoint_files import Source, find_source
from llmstack.llama.model_config import context_length, model_config
from llmstack.llama.params import Params, Version, guess_version, read_params
from llmstack.llama.safetensors_files import ShardFile, parse_size, plan_files
from llmstack.llama.staging import check_output
from llmstack.llama.tokenizer import SpecialTokens, Vocabulary, check_version, read_template, read_vocabulary
from llmstack.llama.tokenizer import save_tokenizer as write_tokenizer
from llmstack.llama.weights import OUTPUT, Weight, plan_groups
from llmstack.reporting import Reporter, human_size

DTYPES = ("auto", "float32", "float16", "bfloat16")
# tokenizer.json and the rest: the largest, Llama 3's, takes 17 MB.
_SMALL_FILES = 32 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; the fields are the script's options. `version` None: guess it."""

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

    source: Path
    vocabulary: Vocabulary
    version: Version
    specials: SpecialTokens
    context_length: int
    template: str | None

    def write(self, folder: Path) -> None:
        """Write its files into a folder."""
        write_tokenizer(
            self.vocabulary,
            self.version,
            self.source,
            folder,
            specials=self.specials,
            context_length=self.context_length,
            template=self.template,
        )


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The weights to write, a group for each layer, and what config.json will hold."""

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
class Plan:
    """A whole conversion; `model` is None where only the tokenizer is wanted."""

    output: Path
    tokenizer: TokenizerPlan
    model: ModelPlan | None

    def lines(self) -> list[str]:
        """Tell what would be written, a line for each fact."""
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
                f"heads: {heads}, of keys and values {kv_heads}",
                f"context: {config['max_position_embeddings']} tokens",
                f"weights: {human_size(self.model.size)} as {self.model.dtype} in {len(files)} file{plural}",
                *(f"  {file.name}: {human_size(file.size)}, {len(file.weights)} tensors" for file in files),
            ]
        return [*lines, f"output: {self.output}"]


def prepare(request: Request, reporter: Reporter) -> Plan:
    """Look at the checkpoint and plan the conversion; writes nothing.

    Raises UsageError, NotFoundError, IntegrityError where it cannot be done, UnavailableError if the disk is too full.
    """
    check_output(request.output_dir)
    if request.instruct != (request.chat_template is not None):
        raise UsageError(
            "--instruct and --chat_template FILE go together",
            hint="the template that came with the model: a file with what tokenizer_config.json calls chat_template",
        )
    template = read_template(request.chat_template) if request.chat_template else None
    limit = parse_size(request.max_shard_size)
    source = find_source(request.input_dir, request.model_size, tokenizer_only=request.tokenizer_only)
    vocabulary = read_vocabulary(source.tokenizer)
    params = read_params(source.params) if source.params.is_file() else None
    checkpoint = None if request.tokenizer_only else _open(source, request, reporter)
    version = _version(request, params, vocabulary, checkpoint, reporter)
    tokenizer = TokenizerPlan(
        source=source.tokenizer,
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
    return Plan(request.output_dir, tokenizer, model)


def _open(source: Source, request: Request, reporter: Reporter) -> Checkpoint:
    shards = source.shards(request.num_shards)
    size = sum(path.stat().st_size for path in shards)
    plural = "s" if len(shards) > 1 else ""
    reporter.note(f"Fetching parameters from {source.folder} ({len(shards)} shard{plural}, {human_size(size)})")
    return Checkpoint(shards, reporter.warn)


def _version(
    request: Request,
    params: Params | None,
    vocabulary: Vocabulary,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> Version:
    guess = None
    if params:
        # Only among models with scaled rope does it make a difference, and looking costs reading both matrices.
        tied = params.scaled_rope and checkpoint is not None and request.version is None and checkpoint.tied()
        guess, reason = guess_version(params, tiktoken=vocabulary.tiktoken, tied=tied)
        if request.version is None:
            reporter.note(f"Taken for Llama {guess} ({reason}); if it is of another, give --llama_version")
    version = request.version or guess
    if version is None:
        raise UsageError("without a params.json the version cannot be guessed", hint="give --llama_version")
    check_version(vocabulary, version)
    if params and params.scaled_rope != (version in {Version.V3_1, Version.V3_2}):
        reporter.warn(
            f"params.json has use_scaled_rope {str(params.scaled_rope).lower()}, "
            f"which is unusual for Llama {version}; it is followed"
        )
    return version


def _plan_model(checkpoint: Checkpoint, params: Params, tokenizer: TokenizerPlan, dtype: str, limit: int) -> ModelPlan:
    headers = checkpoint.headers()
    absent = all(OUTPUT not in header for header in headers)
    tied = absent or (tokenizer.version is Version.V3_2 and checkpoint.tied())
    groups = plan_groups(params, headers, tied=tied)
    vocab_size = groups[0][0].shape[0]
    if tokenizer.vocabulary.size != vocab_size:
        raise IntegrityError(
            f"{tokenizer.source}: {tokenizer.vocabulary.size} tokens, but the model has {vocab_size}",
            hint="it belongs to another model, or is truncated",
        )
    if dtype == "auto":
        dtype = str(checkpoint.dtype()).removeprefix("torch.")
    if dtype not in DTYPES:
        raise IntegrityError(f"the weights are of type {dtype}, which no Llama checkpoint has", hint="give --dtype")
    config = model_config(
        params, tokenizer.version, vocab_size=vocab_size, dtype=dtype, tied=tied, specials=tokenizer.specials
    )
    files = plan_files((weight for group in groups for weight in group), dtype, limit)
    return ModelPlan(checkpoint, tuple(tuple(group) for group in groups), files, dtype, config)


def _check_disk(output: Path, needed: int) -> None:
    place = output.absolute()
    while not place.exists():
        place = place.parent
    disk = shutil.disk_usage(place)
    # Some FUSE disks do not tell their size: all is zero then.
    if disk.total and disk.free < needed:
        raise UnavailableError(
            f"{output}: {human_size(needed)} are needed, {human_size(disk.free)} are free",
            hint="free some space, or choose a folder on another disk",
        )
