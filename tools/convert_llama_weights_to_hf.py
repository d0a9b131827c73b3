#!/usr/bin/env python3
"""Convert Meta's original LLaMA checkpoints to the Hugging Face format, from a checkout of llmstack.

    python tools/convert_llama_weights_to_hf.py --input_dir LLaMA --model_size 7B --output_dir output

The same as the installed command convert-llama-weights-to-hf. Needs torch and tokenizers: `pip install '.[llama]'`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Use the checkout's source if llmstack is not installed. A directory of that name without code has no origin.
if getattr(importlib.util.find_spec("llmstack"), "origin", None) is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from llmstack.llama.command import run

if __name__ == "__main__":
    run()
