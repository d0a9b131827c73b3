"""Map Meta's tensor names and shapes to those of transformers, and assemble tensors from shards."""

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
# Bytes converted at a time: few enough that malloc returns them to the system.
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the model: its names, and its complete shape.

    `axis`: the dimension that Meta's model-parallel shards split; None if each shard holds the complete tensor.
    `head_dim`: for queries and keys, the rows per head, which are reordered; else 0.
    """

    meta_name: str
    hf_name: str
    shape: Shape
    axis: int | None
    head_dim: int = 0

    def shard_shape(self, shards: int) -> Shape:
        """Return the shape in each shard."""
        return tuple(size // shards if axis == self.axis else size for axis, size in enumerate(self.shape))


def plan_groups(params: Params, headers: Sequence[Mapping[str, Shape]], *, tied: bool) -> list[list[Weight]]:
    """Return the model's tensors in the order of transformers: embeddings, a group per layer, output.

    `headers` are the shapes of each shard's tensors by name. `tied`: leave the output layer out.
    Raises IntegrityError if the shards do not match params.json.
    """
    _check_count(params, headers)
    vocab_size, axis = _embeddings(params, headers)
    groups = [[Weight(EMBEDDINGS, "model.embed_tokens.weight", (vocab_size, params.dim), axis)]]
    groups += [_layer(params, number) for number in range(params.n_layers)]
    groups.append([Weight("norm.weight", "model.norm.weight", (params.dim,), None)])
    output = Weight(OUTPUT, "lm_head.weight", (vocab_size, params.dim), 0)
    if not tied:
        groups[-1].append(output)
    weights = [weight for group in groups for weight in group]
    _check_shards(weights, headers, optional={OUTPUT} if tied else set())
    return groups


def _layer(params: Params, number: int) -> list[Weight]:
    dim, kv_dim, ffn = params.dim, params.kv_dim, params.intermediate_size
    return [
        Weight(f"layers.{number}.{meta_name}.weight", f"model.layers.{number}.{hf_name}.weight", shape, axis, head_dim)
        for meta_name, hf_name, shape, axis, head_dim in (
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
    """Tell a wrong number of shards from wrong shapes: each shard has some rows of a square query matrix."""
    name = "layers.0.attention.wq.weight"
    rows, columns = headers[0].get(name, (1, 1))
    expected = columns // rows if rows and columns % rows == 0 else len(headers)
    if expected != len(headers):
        raise IntegrityError(
            f"wrong number of shards: each holds 1/{expected} of {name}, but {len(headers)} were found",
            hint=f"copy all {expected} consolidated files into the directory, and no others",
        )
    if params.n_kv_heads % expected or params.intermediate_size % expected:
        raise IntegrityError(f"{params.n_kv_heads} key-value heads cannot be split over {expected} shards")


def _embeddings(params: Params, headers: Sequence[Mapping[str, Shape]]) -> tuple[int, int]:
    """Return the size of the vocabulary, and the axis along which the embeddings are split.

    Versions 1 and 2 split the columns, later ones the rows. The shapes also give the size that version 1 omits.
    """
    shape = headers[0].get(EMBEDDINGS, ())
    if len(shape) != 2:
        raise IntegrityError(f"consolidated.00.pth: {EMBEDDINGS} is missing")
    by_columns = shape[1] != params.dim
    found = shape[0] if by_columns else shape[0] * len(headers)
    return params.vocab_size or found, 1 if by_columns else 0


def _check_shards(weights: list[Weight], headers: Sequence[Mapping[str, Shape]], optional: set[str]) -> None:
    names = {weight.meta_name for weight in weights}
    for number, header in enumerate(headers):
        shard = f"consolidated.{number:02}.pth"
        # Early releases store the rotary frequencies, which follow from params.json.
        unknown = [name for name in header if name not in names | optional and not name.endswith("rope.freqs")]
        if unknown:
            raise IntegrityError(
                f"{shard}: {unknown[0]} does not belong to the Llama text model of params.json"
                + (f", nor do {len(unknown) - 1} other tensors" if len(unknown) > 1 else ""),
                hint="vision, quantized and adapter checkpoints are not supported",
            )
        for weight in weights:
            expected = weight.shard_shape(len(headers))
            found = header.get(weight.meta_name)
            if found is None:
                raise IntegrityError(f"{shard}: {weight.meta_name} is missing, which params.json requires")
            if found != expected:
                raise IntegrityError(
                    f"{shard}: {weight.meta_name} has shape {list(found)}, but {list(expected)} by params.json"
                )


def assemble(weight: Weight, pieces: Sequence[Tensor], dtype: dtype) -> Iterator[Tensor]:
    """Yield one tensor in the layout of transformers, a few rows at a time, from the shards' pieces."""
    import torch

    row_size = pieces[0][0].numel() * len(pieces) * dtype.itemsize
    count = max(1, _BLOCK // row_size)
    if weight.head_dim:
        count = max(1, count // weight.head_dim) * weight.head_dim
    if weight.axis == 1:
        for start in range(0, weight.shape[0], count):
            yield torch.cat([piece[start : start + count] for piece in pieces], dim=1).to(dtype)
        return
    for piece in pieces[:1] if weight.axis is None else pieces:
        for rows in piece.split(count):
            yield (_split_halves(rows, weight.head_dim) if weight.head_dim else rows).to(dtype).contiguous()


def _split_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of heads for rotary embedding: Meta rotates adjacent pairs, transformers the two halves."""
    pairs = rows.view(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.transpose(1, 2).reshape(rows.shape)
