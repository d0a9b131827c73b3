"""Carrying a planned conversion out, one layer at a time, so that nothing unfinished looks finished."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstack.disk import DISK_FULL
from llmstack.errors import IntegrityError, LlmstackError, UnavailableError
from llmstack.llama.conversion_plan import ModelPlan, Plan
from llmstack.llama.model_config import generation_config
from llmstack.llama.safetensors_files import INDEX, Writer, data_size, index
from llmstack.llama.staging import Staging
from llmstack.llama.weights import Weight, assemble
from llmstack.reporting import Reporter

if TYPE_CHECKING:
    from torch import Tensor


def convert(plan: Plan, reporter: Reporter) -> None:
    """Carry a plan out. An error or an interrupt leaves nothing behind; config.json comes last.

    Raises IntegrityError, UnavailableError if the disk runs full, LlmstackError if it cannot be written to.
    """
    try:
        with Staging(plan.output) as staging:
            if plan.model:
                _write_model(plan.model, staging.folder, reporter)
            reporter.note(f"Saving tokenizer and configuration to {plan.output}")
            plan.tokenizer.write(staging.folder)
            if plan.model:
                _write_json(staging.folder / "generation_config.json", generation_config(plan.tokenizer.specials))
                _write_json(staging.folder / "config.json", plan.model.config)
            staging.publish()
    except OSError as error:
        kind = UnavailableError if error.errno in DISK_FULL else LlmstackError
        raise kind(f"{plan.output}: cannot be written: {error.strerror or error}") from error


def _write_model(model: ModelPlan, folder: Path, reporter: Reporter) -> None:
    total = sum(data_size(weight, model.dtype) for group in model.groups for weight in group)
    layers = len(model.groups) - 2
    names = ["embeddings", *(f"layer {number} of {layers}" for number in range(1, layers + 1)), "output layer"]
    reporter.begin("Loading checkpoint shards", total)
    try:
        with Writer(folder, model.files) as writer:
            for name, group in zip(names, model.groups, strict=True):
                _write_group(model, group, writer, reporter, name)
                # torch.load leaves cycles behind, which would keep the files mapped.
                gc.collect()
    finally:
        reporter.end()
    if len(model.files) > 1:
        _write_json(folder / INDEX, index(model.files))


def _write_group(model: ModelPlan, group: Sequence[Weight], writer: Writer, reporter: Reporter, name: str) -> None:
    """Convert one layer. What it has read leaves the memory when it returns."""
    import torch

    task = reporter.task(name, sum(data_size(weight, model.dtype) for weight in group))
    shards = model.checkpoint.open()
    for weight in group:
        parts = [shard[weight.source] for shard in shards]
        rows = assemble(weight, parts, getattr(torch, model.dtype))
        writer.add(_finite(rows, weight.source) if model.dtype == "float16" else rows)
        task.advance(data_size(weight, model.dtype))
    task.done()


def _finite(rows: Iterable[Tensor], name: str) -> Iterator[Tensor]:
    """Pass a tensor on; raises IntegrityError if a number is infinite, as one beyond float16's range has become."""
    for tensor in rows:
        if not bool(tensor.isfinite().all()):
            raise IntegrityError(f"{name} holds numbers too large for float16", hint="use --dtype bfloat16 or float32")
        yield tensor


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
