#!/usr/bin/env python3
"""Load a model and complete a text: MODEL_LLAMA=./output python example/start.py "Once upon a time"

MODEL_LLAMA is a directory or a repo id. With HF_HUB_OFFLINE=1, a repo is loaded from the Hugging Face cache only.
"""

import argparse
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description="Load a model and complete a text.")
parser.add_argument("prompt", nargs="?", default="The capital of France is", help="default: %(default)s")
parser.add_argument(
    "--model", default=os.environ.get("MODEL_LLAMA"), help="directory or repo id; default: $MODEL_LLAMA"
)
parser.add_argument(
    "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto (default): cuda if available"
)
parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="default: %(default)s")


def load(name: str, device: str):
    """Return the tokenizer and the model, with the stored data type."""
    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **{dtype: "auto"})
    return tokenizer, model.to(device).eval()


def encode(tokenizer, prompt: str):
    """Return the prompt as tokens; for a chat model, as a user turn."""
    if not tokenizer.chat_template:
        return tokenizer(prompt, return_tensors="pt")
    turn = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, return_tensors="pt")


def main(prompt: str, name: str, device: str, max_new_tokens: int) -> None:
    """Load the model and generate. The text goes to stdout, timings to stderr."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; use --device cpu")
    started = time.perf_counter()
    try:
        tokenizer, model = load(name, device)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {name} cannot be loaded: {str(error).splitlines()[0]}")
    took = time.perf_counter() - started
    size = sum(parameter.numel() for parameter in model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    print(f"Loaded {name}: {size / 1e9:.3g} billion parameters, {dtype}, on {device}, in {took:.1f} s", file=sys.stderr)

    inputs = encode(tokenizer, prompt).to(device)
    streamer = transformers.TextStreamer(tokenizer, skip_special_tokens=True)
    started = time.perf_counter()
    output = model.generate(
        **inputs, max_new_tokens=max_new_tokens, streamer=streamer, pad_token_id=tokenizer.eos_token_id
    )
    took = time.perf_counter() - started
    count = output.shape[1] - inputs["input_ids"].shape[1]
    print(f"{count} tokens in {took:.1f} s, {count / took:.1f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    arguments = parser.parse_args()
    if not arguments.model:
        parser.error("no model: set MODEL_LLAMA or --model")
    if arguments.model.startswith((".", "/")) and not Path(arguments.model).is_dir():
        parser.error(f"{arguments.model}: no such directory")
    import torch  # imported late: it takes seconds
    import transformers

    main(arguments.prompt, arguments.model, arguments.device, arguments.max_new_tokens)
