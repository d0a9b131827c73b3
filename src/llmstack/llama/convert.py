"""Execute a planned conversion, one layer at a time. The output is complete or absent."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstack.disk import disk_unavailable, is_disk_full
from llmstack.errors import IntegrityError, LlmstackError
from llmstack.llama.conversion_plan import ConversionPlan, ModelPlan
from llmstack.llama.model_config import generation_config
from llmstack.llama.safetensors_files import INDEX, ShardWriter, data_size, weight_index
from llmstack.llama.staging import Staging
from llmstack.llama.weights import Weight, assemble
from llmstack.reporting import Reporter

if TYPE_CHECKING:
    from torch import Tensor


def convert(plan: ConversionPlan, reporter: Reporter) -> None:
    """Execute a plan. After an error or an interrupt, the output is removed.

    Raises IntegrityError, UnavailableError if the disk is full, LlmstackError for other write errors.
    """
    try:
        with Staging(plan.output) as staging:
            if plan.model:
                _write_model(plan.model, staging.directory, reporter)
            reporter.note(f"Saving tokenizer and configuration to {plan.output}")
            plan.tokenizer.write(staging.directory)
            if plan.model:
                _write_json(staging.directory / "generation_config.json", generation_config(plan.tokenizer.specials))
                _write_json(staging.directory / "config.json", plan.model.config)
            staging.publish()
    except OSError as error:
        what = f"{plan.output}: cannot be written"
        if is_disk_full(error):
            raise disk_unavailable(what, error, hint="free some space, then rerun") from error
        raise LlmstackError(f"{what}: {error.strerror or error}") from error


def _write_model(model: ModelPlan, directory: Path, reporter: Reporter) -> None:
    total = sum(data_size(weight, model.dtype) for group in model.groups for weight in group)
    layers = len(model.groups) - 2
    names = ["embeddings", *(f"layer {number} of {layers}" for number in range(1, layers + 1)), "output layer"]
    reporter.begin("Loading checkpoint shards", total)
    try:
        with ShardWriter(directory, model.files) as writer:
            for name, group in zip(names, model.groups, strict=True):
                _write_group(model, group, writer, reporter, name)
                # torch.load creates reference cycles, which keep the files mapped.
                gc.collect()
    finally:
        reporter.end()
    if len(model.files) > 1:
        _write_json(directory / INDEX, weight_index(model.files))


def _write_group(model: ModelPlan, group: Sequence[Weight], writer: ShardWriter, reporter: Reporter, name: str) -> None:
    """Convert one layer. Its tensors are freed on return."""
    import torch

    task = reporter.task(name, sum(data_size(weight, model.dtype) for weight in group))
    shards = model.checkpoint.open()
    for weight in group:
        pieces = [shard[weight.meta_name] for shard in shards]
        rows = assemble(weight, pieces, getattr(torch, model.dtype))
        writer.add(_finite(rows, weight.meta_name) if model.dtype == "float16" else rows)
        task.advance(data_size(weight, model.dtype))
    task.done()


def _finite(rows: Iterable[Tensor], name: str) -> Iterator[Tensor]:
    """Pass a tensor on; raises IntegrityError if a number is infinite because it exceeds the range of float16."""
    for tensor in rows:
        if not bool(tensor.isfinite().all()):
            raise IntegrityError(f"{name}: numbers too large for float16", hint="use --dtype bfloat16 or float32")
        yield tensor


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
