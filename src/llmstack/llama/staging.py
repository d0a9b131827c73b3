"""An output folder that is either finished or looks like nothing: files are made in `.part` inside it, then moved."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from llmstack.errors import UsageError

PART = ".part"
# Without config.json no library takes a folder for a model, so it comes last.
_LAST = "config.json"
_OURS = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config)\.json|tokenizer\.model|model.*\.safetensors.*"
)


def check_output(output: Path) -> None:
    """Raise UsageError unless `output` is missing, empty, or what an interrupted conversion left."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output}: is not a folder")
    interrupted = (output / PART).is_dir()
    foreign = [path.name for path in output.iterdir() if not (interrupted and _is_ours(path))]
    if foreign:
        raise UsageError(
            f"{output}: not empty ({', '.join(sorted(foreign)[:3])})", hint="name another folder, or remove this one"
        )


def _is_ours(path: Path) -> bool:
    return path.name == PART or bool(_OURS.fullmatch(path.name))


class Staging:
    """Holds the files until `publish`; what is left of an earlier, interrupted run is removed first.

    Leaving the block without it, by an error or an interrupt, removes everything again.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.folder = output / PART

    def __enter__(self) -> Self:
        check_output(self._output)
        self._existed = self._output.exists()
        if self._existed:
            self._clear()
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.folder.exists():
            self._clear()
            if not self._existed:
                self._output.rmdir()

    def publish(self) -> None:
        """Move the files to where they belong."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == _LAST):
            path.rename(self._output / path.name)
        self.folder.rmdir()

    def _clear(self) -> None:
        for path in self._output.iterdir():
            # `.part` goes last: as long as it is there, the other files are known to be unfinished.
            if path != self.folder and _is_ours(path):
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
