#!/usr/bin/env python3
"""Convert Meta's original LLaMA checkpoints to a Hugging Face folder.

    python tools/convert_llama_weights_to_hf.py --input_dir LLaMA --model_size 7B --output_dir output

Needs torch and tokenizers: `pip install '.[llama]'` in a checkout of llmstack. docs/llama.md tells more.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

# Not installed (a folder of that name without code has no origin): take the checkout's.
if getattr(importlib.util.find_spec("llmstack"), "origin", None) is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from llmstack.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, LlmstackError
from llmstack.llama.conversion_plan import DTYPES, Request, prepare
from llmstack.llama.convert import convert
from llmstack.llama.params import Version
from llmstack.reporting import make_reporter


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Convert Meta's original LLaMA checkpoints to a Hugging Face folder.")
    add = parser.add_argument
    add("--input_dir", type=Path, required=True, help="folder of params.json, consolidated.*.pth and tokenizer.model")
    add("--output_dir", type=Path, required=True, help="folder to write; it must be empty or not exist")
    add("--model_size", help="subfolder of the older layout, LLaMA/7B: 7B, 13B, ...")
    add("--llama_version", choices=[str(version) for version in Version], help="default: guessed, and said")
    add("--num_shards", type=int, help="how many consolidated files there must be; default: as many as there are")
    add("--instruct", action="store_true", help="an instruction-tuned model; needs --chat_template")
    add("--chat_template", type=Path, metavar="FILE", help="Jinja template of an instruction-tuned model's chats")
    add("--dtype", choices=DTYPES, default="auto", help="type to write; auto (default): the checkpoint's own")
    add("--max_shard_size", default="5GB", metavar="SIZE", help="largest safetensors file (default: 5GB)")
    add("--tokenizer_only", action="store_true", help="convert the tokenizer alone")
    add("--dry_run", action="store_true", help="check everything, say what would be written, write nothing")
    add("--progress", choices=["auto", "rich", "plain", "none"], default="auto", help="bars or lines (default: auto)")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Do what the arguments ask for; raises LlmstackError."""
    request = Request(
        input_dir=arguments.input_dir,
        output_dir=arguments.output_dir,
        model_size=arguments.model_size,
        version=Version(arguments.llama_version) if arguments.llama_version else None,
        num_shards=arguments.num_shards,
        instruct=arguments.instruct,
        chat_template=arguments.chat_template,
        dtype=arguments.dtype,
        max_shard_size=arguments.max_shard_size,
        tokenizer_only=arguments.tokenizer_only,
    )
    reporter = make_reporter(arguments.progress)
    plan = prepare(request, reporter)
    if arguments.dry_run:
        print("\n".join(plan.lines()))
        return
    convert(plan, reporter)
    reporter.note(f"Done: {plan.output}")


def main() -> int:
    """Run the script; return its exit code."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, terminate)
    try:
        run(arguments)
    except LlmstackError as error:
        print(f"error: {error}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"error: {error}\nhint: pip install '.[llama]' in a checkout of llmstack", file=sys.stderr)
        return LlmstackError.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return LlmstackError.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception:
        traceback.print_exc()
        return EXIT_BUG
    return 0


def terminate(*_: object) -> NoReturn:
    """End in order, so that nothing unfinished stays behind."""
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
