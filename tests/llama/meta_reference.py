"""Run Meta's reference model: create checkpoints with random weights, and their logits.

    python meta_reference.py RANK WORLD_SIZE FOLDER CASE...

One process per model-parallel rank; they rendezvous over a file in FOLDER. For each case (JSON: name, params, tokens
and differences from the package's model) a rank writes FOLDER/NAME/consolidated.RANK.pth; rank 0 also writes
params.json and the logits.
"""

import inspect
import json
import sys
import zlib
from pathlib import Path

import torch
from fairscale.nn.model_parallel.initialize import initialize_model_parallel
from fairscale.nn.model_parallel.layers import ParallelEmbedding, VocabParallelEmbedding
from llama_models.llama3 import model as meta
from llama_models.llama3.args import ModelArgs


def random_weights(model, rank):
    """Fill all parameters. The norms are the same on all ranks, because each shard holds them completely."""
    for name, parameter in model.named_parameters():
        seed = zlib.crc32(name.encode()) + (0 if "norm" in name else rank)
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        parameter.data = 1 + 0.1 * values if "norm" in name else values / 8


def scaling_by(factor):
    """Return Meta's function for scaled RoPE with another factor: llama-models has that of Llama 3.1 only."""
    source = inspect.getsource(meta.apply_scaling)
    changed = source.replace("scale_factor = 8\n", f"scale_factor = {factor}\n")
    assert changed != source
    namespace = {"torch": torch}
    exec(changed, namespace)
    return namespace["apply_scaling"]


def run(case, rank, folder):
    # Until Llama 2 the embeddings were split by columns.
    meta.VocabParallelEmbedding = ParallelEmbedding if case["embeddings_by_columns"] else VocabParallelEmbedding
    meta.apply_scaling = scaling_by(case["rope_factor"]) if case["rope_factor"] != 8 else original_scaling
    args = {"rope_theta": 10000.0, **case["params"], "vocab_size": case["vocab_size"]}
    model = meta.Transformer(ModelArgs(**args, max_batch_size=1, max_seq_len=case["tokens"]))
    random_weights(model, rank)
    if case["tied"]:
        model.output.weight.data = model.tok_embeddings.weight.data.clone()
    state = dict(model.state_dict())
    if case["rope_freqs"]:
        state["rope.freqs"] = torch.ones(4)
    output = folder / case["name"]
    output.mkdir(exist_ok=True)
    torch.save(state, output / f"consolidated.{rank:02}.pth")
    tokens = torch.randint(case["vocab_size"], (1, case["tokens"]), generator=torch.Generator().manual_seed(7))
    logits = model(tokens, 0)
    if rank == 0:
        (output / "params.json").write_text(json.dumps(case["params"]))
        torch.save({"tokens": tokens, "logits": logits}, output / "expected.pt")


if __name__ == "__main__":
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{world_size}", rank=rank, world_size=world_size
    )
    initialize_model_parallel(world_size)
    original_scaling = meta.apply_scaling
    for text in sys.argv[4:]:
        run(json.loads(text), rank, folder)
    torch.distributed.destroy_process_group()
