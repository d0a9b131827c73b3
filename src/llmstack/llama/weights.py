"""From Meta's names and shapes to those of transformers; pure but for `assemble`, which needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmstack.errors import IntegrityError
from llmstack.llama.params import Params

if TYPE_CHECKING:
    from torch import Tensor, dtype

Shape = tuple[int, ...]

EMBEDDINGS = "tok_embeddings.weight"
OUTPUT = "output.weight"
# Bytes that are converted at a time: so few that malloc gives them back.
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the model: its name on either side and its whole shape.

    `axis`: the dimension that Meta's model-parallel shards split; None where every shard holds the same.
    `head_dim`: for queries and keys, the rows of a head, which change their order; else 0.
    """

    source: str
    target: str
    shape: Shape
    axis: int | None
    head_dim: int = 0

    def shard_shape(self, shards: int) -> Shape:
        """Return the shape of one shard's part."""
        return tuple(size // shards if axis == self.axis else size for axis, size in enumerate(self.shape))


def plan_groups(params: Params, headers: Sequence[Mapping[str, Shape]], *, tied: bool) -> list[list[Weight]]:
    """Return the model's tensors, a group for each layer and one at either end, in the order of transformers.

    `headers` are the shapes that each shard holds by name. `tied`: leave the output layer out.
    Raises IntegrityError where the shards do not hold what params.json says.
    """
    _check_count(params, headers)
    vocab_size, axis = _embeddings(params, headers)
    groups = [[Weight(EMBEDDINGS, "model.embed_tokens.weight", (vocab_size, params.dim), axis)]]
    groups += [_layer(params, number) for number in range(params.n_layers)]
    groups.append([Weight("norm.weight", "model.norm.weight", (params.dim,), None)])
    output = Weight(OUTPUT, "lm_head.weight", (vocab_size, params.dim), 0)
    if not tied:
        groups[-1].append(output)
    known = [weight for group in groups for weight in group]
    _check_shards(known, headers, optional={OUTPUT} if tied else set())
    return groups


def _layer(params: Params, number: int) -> list[Weight]:
    dim, kv_dim, ffn = params.dim, params.kv_dim, params.intermediate_size
    ours, theirs = f"layers.{number}.", f"model.layers.{number}."
    return [
        Weight(f"{ours}{source}.weight", f"{theirs}{target}.weight", shape, axis, head_dim)
        for source, target, shape, axis, head_dim in (
            ("attention.wq", "self_attn.q_proj", (dim, dim), 0, params.head_dim),
            ("attention.wk", "self_attn.k_proj", (kv_dim, dim), 0, params.head_dim),
            ("attention.wv", "self_attn.v_proj", (kv_dim, dim), 0, 0),
            ("attention.wo", "self_attn.o_proj", (dim, dim), 1, 0),
            ("feed_forward.w1", "mlp.gate_proj", (ffn, dim), 0, 0),
            ("feed_forward.w3", "mlp.up_proj", (ffn, dim), 0, 0),
            ("feed_forward.w2", "mlp.down_proj", (dim, ffn), 1, 0),
            ("attention_norm", "input_layernorm", (dim,), None, 0),
            ("ffn_norm", "post_attention_layernorm", (dim,), None, 0),
        )
    ]


def _check_count(params: Params, headers: Sequence[Mapping[str, Shape]]) -> None:
    """Tell a wrong number of shards from wrong shapes: the query matrix is square, and each shard holds some rows."""
    name = "layers.0.attention.wq.weight"
    rows, columns = headers[0].get(name, (1, 1))
    parts = columns // rows if rows and columns % rows == 0 else len(headers)
    if parts != len(headers):
        raise IntegrityError(
            f"wrong number of shards: each holds 1/{parts} of {name}, but there are {len(headers)}",
            hint=f"put all {parts} consolidated files into the folder, and no others",
        )
    if params.n_kv_heads % parts or params.intermediate_size % parts:
        raise IntegrityError(f"{params.n_kv_heads} key-value heads cannot be split over {parts} shards")


def _embeddings(params: Params, headers: Sequence[Mapping[str, Shape]]) -> tuple[int, int]:
    """Return the vocabulary's size and the axis along which the embeddings are split.

    Versions 1 and 2 split the columns, later ones the rows; the shapes tell, and give the size that version 1 lacks.
    """
    shape = headers[0].get(EMBEDDINGS, ())
    if len(shape) != 2:
        raise IntegrityError(f"the checkpoint has no {EMBEDDINGS}")
    by_columns = shape[1] != params.dim
    found = shape[0] if by_columns else shape[0] * len(headers)
    return params.vocab_size or found, 1 if by_columns else 0


def _check_shards(weights: list[Weight], headers: Sequence[Mapping[str, Shape]], optional: set[str]) -> None:
    names = {weight.source for weight in weights}
    for number, header in enumerate(headers):
        shard = f"consolidated.{number:02}.pth"
        # Early releases carry the rotary frequencies as tensors; they follow from params.json.
        unknown = [name for name in header if name not in names | optional and not name.endswith("rope.freqs")]
        if unknown:
            raise IntegrityError(
                f"{shard}: {unknown[0]} does not belong to the Llama text model that params.json tells of"
                + (f", nor do {len(unknown) - 1} other tensors" if len(unknown) > 1 else ""),
                hint="vision, quantised and adapter checkpoints cannot be converted",
            )
        for weight in weights:
            expected = weight.shard_shape(len(headers))
            found = header.get(weight.source)
            if found is None:
                raise IntegrityError(f"{shard}: {weight.source} is missing, which params.json makes one expect")
            if found != expected:
                raise IntegrityError(
                    f"{shard}: {weight.source} has shape {list(found)}, params.json makes it {list(expected)}"
                )


def assemble(weight: Weight, parts: Sequence[Tensor], dtype: dtype) -> Iterator[Tensor]:
    """Yield one tensor as transformers wants it, a few rows at a time, from the shards' parts."""
    import torch

    row_size = parts[0][0].numel() * len(parts) * dtype.itemsize
    count = max(1, _BLOCK // row_size)
    if weight.head_dim:
        count = max(1, count // weight.head_dim) * weight.head_dim
    if weight.axis == 1:
        for start in range(0, weight.shape[0], count):
            yield torch.cat([part[start : start + count] for part in parts], dim=1).to(dtype)
        return
    for part in parts[:1] if weight.axis is None else parts:
        for rows in part.split(count):
            yield (_halves_apart(rows, weight.head_dim) if weight.head_dim else rows).to(dtype).contiguous()


def _halves_apart(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder whole heads' rows for rotary embedding: Meta turns neighbouring pairs, transformers the two halves."""
    pairs = rows.view(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.transpose(1, 2).reshape(rows.shape)
