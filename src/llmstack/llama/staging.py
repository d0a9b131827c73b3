"""Write an output directory that is complete or empty: files are written to `.part` inside it, then moved."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from llmstack.errors import UsageError

STAGING = ".part"
# Moved last: without config.json, no library loads the directory as a model.
_LAST = "config.json"
_OURS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config)\.json|tokenizer\.model|model.*\.safetensors.*"
)


def check_output(output: Path) -> None:
    """Raise UsageError unless `output` is missing, empty, or left by an interrupted conversion."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output}: not a directory")
    interrupted = (output / STAGING).is_dir()
    others = [path.name for path in output.iterdir() if not (interrupted and _is_ours(path))]
    if others:
        raise UsageError(
            f"{output}: not empty ({', '.join(sorted(others)[:3])})",
            hint="choose another directory, or remove this one",
        )


def _is_ours(path: Path) -> bool:
    return path.name == STAGING or bool(_OURS.fullmatch(path.name))


class Staging:
    """Holds the files until `publish`. Files of an earlier, interrupted run are removed first.

    Leaving the context without `publish`, by an error or an interrupt, removes everything.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.directory = output / STAGING

    def __enter__(self) -> Self:
        check_output(self._output)
        self._existed = self._output.exists()
        if self._existed:
            self._clear()
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.directory.exists():
            self._clear()
            if not self._existed:
                self._output.rmdir()

    def publish(self) -> None:
        """Move the files to the output directory."""
        for path in sorted(self.directory.iterdir(), key=lambda path: path.name == _LAST):
            path.rename(self._output / path.name)
        self.directory.rmdir()

    def _clear(self) -> None:
        for path in self._output.iterdir():
            # Remove `.part` last: it marks the other files as incomplete.
            if path != self.directory and _is_ours(path):
                path.unlink()
        shutil.rmtree(self.directory, ignore_errors=True)
