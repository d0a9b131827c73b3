"""Where the files of one of Meta's checkpoints lie: in one folder, or LLaMA/7B with the tokenizer one level up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import NotFoundError, UsageError

PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
_SHARD = re.compile(r"consolidated\.(\d{2,})\.pth")


@dataclass(frozen=True, slots=True)
class Source:
    """One checkpoint: its folder, and the tokenizer that belongs to it."""

    folder: Path
    tokenizer: Path

    @property
    def params(self) -> Path:
        """Where params.json lies, if there is one."""
        return self.folder / PARAMS

    def shards(self, expected: int | None = None) -> tuple[Path, ...]:
        """Return the consolidated files in order; raises NotFoundError if one is missing, UsageError if too many."""
        found = {int(match[1]): path for path in self.folder.iterdir() if (match := _SHARD.fullmatch(path.name))}
        if not found:
            raise NotFoundError(
                f"{self.folder}: no consolidated.00.pth", hint="the folder must hold Meta's original *.pth files"
            )
        count = max(max(found) + 1, expected or 0)
        missing = [f"consolidated.{number:02}.pth" for number in range(count) if number not in found]
        if missing:
            raise NotFoundError(
                f"{self.folder}: {len(found)} of {count} shards are there; missing: {', '.join(missing)}",
                hint="copy the whole checkpoint; every consolidated file is needed",
            )
        if expected is not None and count != expected:
            raise UsageError(f"{self.folder}: --num_shards says {expected}, but {count} consolidated files are there")
        return tuple(path for _, path in sorted(found.items()))


def find_source(input_dir: Path, model_size: str | None, *, tokenizer_only: bool = False) -> Source:
    """Find a checkpoint; raises NotFoundError, saying what is there instead.

    `model_size` names the subfolder of the older layout, and is of no account where everything lies in `input_dir`.
    """
    if not input_dir.is_dir():
        raise NotFoundError(f"{input_dir}: no such folder")
    folder = input_dir / model_size if model_size and (input_dir / model_size).is_dir() else input_dir
    if not tokenizer_only and not (folder / PARAMS).is_file():
        sizes = sorted(path.parent.name for path in input_dir.glob(f"*/{PARAMS}"))
        hint = f"there is: --model_size {', '.join(sizes)}" if sizes else "give the folder of Meta's original files"
        raise NotFoundError(f"{folder}: no {PARAMS}", hint=hint)
    for place in (folder, input_dir):
        if (place / TOKENIZER).is_file():
            return Source(folder, place / TOKENIZER)
    raise NotFoundError(
        f"{folder}: no {TOKENIZER}, neither there nor in {input_dir}",
        hint=f"put the {TOKENIZER} that came with the checkpoint beside {PARAMS}",
    )
