"""Find the files of Meta's checkpoints: in one directory, or in LLaMA/7B with the tokenizer one level up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import IntegrityError, NotFoundError, UsageError

PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
_SHARD = re.compile(r"consolidated\.(\d{2,})\.pth")

# How much of a file `check_content` needs.
HEAD = 256


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """One checkpoint: its directory, and its tokenizer."""

    directory: Path
    tokenizer: Path

    @property
    def params(self) -> Path:
        """The path of params.json, which may not exist."""
        return self.directory / PARAMS

    def shards(self, expected: int | None = None) -> tuple[Path, ...]:
        """Return the consolidated files in order.

        Raises NotFoundError if one is missing, UsageError if there are more than `expected`.
        """
        found = {int(match[1]): path for path in self.directory.iterdir() if (match := _SHARD.fullmatch(path.name))}
        if not found:
            raise NotFoundError(
                f"{self.directory}: no consolidated.00.pth", hint="use a directory with Meta's original *.pth files"
            )
        count = max(max(found) + 1, expected or 0)
        missing = [f"consolidated.{number:02}.pth" for number in range(count) if number not in found]
        if missing:
            raise NotFoundError(
                f"{self.directory}: {len(found)} of {count} shards found; missing: {', '.join(missing)}",
                hint="copy all consolidated files of the checkpoint",
            )
        if expected is not None and count != expected:
            raise UsageError(f"{self.directory}: {count} consolidated files found, but --num_shards is {expected}")
        return tuple(path for _, path in sorted(found.items()))


def find_checkpoint(input_dir: Path, model_size: str | None, *, tokenizer_only: bool = False) -> CheckpointFiles:
    """Find a checkpoint's files; raises NotFoundError with a hint of what was found.

    `model_size` is the subdirectory of the older layout. It is ignored if it does not exist.
    """
    if not input_dir.is_dir():
        raise NotFoundError(f"{input_dir}: no such directory")
    directory = input_dir / model_size if model_size and (input_dir / model_size).is_dir() else input_dir
    if not tokenizer_only and not (directory / PARAMS).is_file():
        sizes = sorted(path.parent.name for path in input_dir.glob(f"*/{PARAMS}"))
        hint = f"found: --model_size {', '.join(sizes)}" if sizes else "use the directory of Meta's original files"
        raise NotFoundError(f"{directory}: no {PARAMS}", hint=hint)
    for parent in (directory, input_dir):
        if (parent / TOKENIZER).is_file():
            return CheckpointFiles(directory, parent / TOKENIZER)
    raise NotFoundError(
        f"{directory}: no {TOKENIZER}, nor in {input_dir}",
        hint=f"copy the {TOKENIZER} of the checkpoint next to {PARAMS}",
    )


def check_content(path: Path, data: bytes) -> None:
    """Raise IntegrityError if a file is a web page or a Git LFS pointer: a download that went wrong."""
    head = data[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        hint = f"download {path.name} again; the server may require authentication"
        raise IntegrityError(f"{path}: a web page (HTML or XML), not Meta's file", hint=hint)
    if head.startswith(b"version https://git-lfs"):
        raise IntegrityError(f"{path}: a Git LFS pointer, not the file itself", hint="run: git lfs pull")
