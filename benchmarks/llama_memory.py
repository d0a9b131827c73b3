"""Measure the peak memory of converting a LLaMA checkpoint of 1.5 GB; exits with 1 if it is 400 MB or more.

    python benchmarks/llama_memory.py

Needs the `llama` extra and 3.5 GB of temporary disk space. The peak is the kernel's ru_maxrss of the converter: all
resident memory, including Python, torch and the mapped pages of the checkpoint.
"""

import argparse
import base64
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "tools/convert_llama_weights_to_hf.py"
LIMIT = 400e6
DIM, LAYERS, FFN, VOCABULARY = 2048, 12, 5632, 32000
PARAMS = {"dim": DIM, "n_layers": LAYERS, "n_heads": 16, "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 500000.0}


def write_checkpoint(folder: Path, shards: int) -> None:
    """Write a checkpoint in the format of Llama 3."""
    import torch

    shapes = {"tok_embeddings": (VOCABULARY // shards, DIM), "output": (VOCABULARY // shards, DIM), "norm": (DIM,)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.attention.{name}": (DIM // shards, DIM) for name in ("wq", "wk", "wv")}
        shapes |= {f"layers.{layer}.feed_forward.{name}": (FFN // shards, DIM) for name in ("w1", "w3")}
        shapes[f"layers.{layer}.attention.wo"] = (DIM, DIM // shards)
        shapes[f"layers.{layer}.feed_forward.w2"] = (DIM, FFN // shards)
        shapes |= {f"layers.{layer}.{name}": (DIM,) for name in ("attention_norm", "ffn_norm")}
    numbers = torch.randn(2**20).bfloat16()
    for shard in range(shards):
        tensors = {
            f"{name}.weight": numbers.repeat(torch.Size(shape).numel() // len(numbers) + 1)[
                : torch.Size(shape).numel()
            ].reshape(shape).clone()
            for name, shape in shapes.items()
        }  # fmt: skip
        torch.save(tensors, folder / f"consolidated.{shard:02}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS | {"vocab_size": VOCABULARY}))
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [first + second for first in tokens for second in tokens][: VOCABULARY - 512]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1, help="model-parallel shards (default: 1)")
    parser.add_argument("--max_shard_size", default="5GB", help="largest output file (default: 5GB)")
    parser.add_argument("--folder", type=Path, help="work directory (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        # In a separate process: ru_maxrss of a child includes the memory of its parent before exec.
        writer = multiprocessing.get_context("spawn").Process(target=write_checkpoint, args=(folder, arguments.shards))
        writer.start()
        writer.join()
        size = sum(path.stat().st_size for path in folder.glob("*.pth"))
        command = [sys.executable, str(SCRIPT), "--input_dir", name, "--output_dir", str(folder / "output")]
        command += ["--max_shard_size", arguments.max_shard_size, "--progress", "none"]
        started = time.perf_counter()
        process = os.posix_spawn(sys.executable, command, os.environ)
        _, status, usage = os.wait4(process, 0)
        took = time.perf_counter() - started
    peak = usage.ru_maxrss * 1024
    code = os.waitstatus_to_exitcode(status)
    print(f"checkpoint {size / 1e9:.2f} GB in {arguments.shards} shard(s), exit code {code}")
    print(f"peak resident memory {peak / 1e6:.0f} MB (limit {LIMIT / 1e6:.0f} MB), {took:.1f} s")
    return 0 if code == 0 and peak < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
