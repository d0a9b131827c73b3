"""The command `convert-llama-weights-to-hf`; tools/convert_llama_weights_to_hf.py calls it too."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from llmstack.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, LlmstackError
from llmstack.llama.conversion_plan import DTYPES, ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.llama.params import Version
from llmstack.reporting import make_reporter, write_line, write_traceback


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    sys.exit(main())


def main() -> int:
    """Run the command line; return its exit code."""
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _convert(arguments)
    except LlmstackError as error:
        _fail(str(error), error.hint)
        return error.exit_code
    except ModuleNotFoundError as error:
        _fail(str(error), "install the extra llama, in a checkout of llmstack: pip install '.[llama]'")
        return LlmstackError.exit_code
    except OSError as error:
        _fail(str(error))
        return LlmstackError.exit_code
    except KeyboardInterrupt:
        write_line(sys.stderr, "interrupted; no output was published")
        return EXIT_INTERRUPTED
    except Exception:
        write_traceback(sys.stderr)
        return EXIT_BUG
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Convert Meta's LLaMA checkpoints to the Hugging Face format.")
    add = parser.add_argument
    add("--input_dir", type=Path, required=True, help="directory of params.json, consolidated.*.pth, tokenizer.model")
    add("--output_dir", type=Path, required=True, help="output directory; must be empty or not exist")
    add("--model_size", help="subdirectory of --input_dir in the older layout, LLaMA/7B: 7B, 13B, ...")
    add("--llama_version", choices=[str(version) for version in Version], help="default: detected")
    add("--num_shards", type=int, help="expected number of consolidated files; default: as many as found")
    add("--instruct", action="store_true", help="instruction-tuned model; requires --chat_template")
    add("--chat_template", type=Path, metavar="FILE", help="Jinja chat template of an instruction-tuned model")
    add("--dtype", choices=DTYPES, default="auto", help="data type of the output; auto (default): as the checkpoint")
    add("--max_shard_size", default="5GB", metavar="SIZE", help="maximum size of a safetensors file (default: 5GB)")
    add("--tokenizer_only", action="store_true", help="convert only the tokenizer")
    add("--dry_run", action="store_true", help="check everything and print the plan; write nothing")
    add("--progress", choices=["auto", "rich", "plain", "none"], default="auto", help="progress style (default: auto)")
    return parser.parse_args()


def _convert(arguments: argparse.Namespace) -> None:
    request = ConversionRequest(
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
    plan = plan_conversion(request, reporter)
    if arguments.dry_run:
        sys.stdout.write("\n".join([*plan.lines(), ""]))
        return
    convert(plan, reporter)
    reporter.note(f"Done: {plan.output}")


def _fail(message: str, hint: str | None = None) -> None:
    write_line(sys.stderr, f"error: {message}")
    if hint:
        write_line(sys.stderr, f"  hint: {hint}")


def _terminate(*_: object) -> NoReturn:
    """Raise SystemExit, so that the partial output is removed."""
    sys.exit(EXIT_TERMINATED)
