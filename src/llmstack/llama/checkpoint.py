"""Reading Meta's consolidated.NN.pth files with torch, mapped into memory rather than loaded."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmstack.errors import IntegrityError
from llmstack.llama.weights import EMBEDDINGS, OUTPUT, Shape

if TYPE_CHECKING:
    from torch import Tensor, dtype

_ZIP = b"PK\x03\x04"
# Rows that are compared at a time when looking whether the output layer repeats the embeddings.
_ROWS = 16384


class Checkpoint:
    """The shards of one checkpoint.

    Every `open` maps the files anew, so what was read in between leaves the memory as soon as the caller lets go.
    Raises IntegrityError if a file is truncated or is no plain checkpoint of tensors.
    """

    def __init__(self, paths: Sequence[Path], warn: Callable[[str], None]) -> None:
        self._paths = paths
        self._loaded: dict[Path, dict[str, Tensor]] = {}
        for path in paths:
            if not _is_zip(path):
                # torch wrote this format before 1.6; it cannot be mapped.
                warn(f"{path}: an old checkpoint format, which has to be loaded whole")
                self._loaded[path] = _load(path, mmap=False)

    def open(self) -> list[dict[str, Tensor]]:
        """Return each shard's tensors by name; no data is read before a tensor is used."""
        return [self._loaded[path] if path in self._loaded else _load(path, mmap=True) for path in self._paths]

    def headers(self) -> list[dict[str, Shape]]:
        """Return each shard's shapes by name."""
        return [{name: tuple(tensor.shape) for name, tensor in shard.items()} for shard in self.open()]

    def dtype(self) -> dtype:
        """Return the type of the embeddings, which stands for the whole checkpoint."""
        return self.open()[0][EMBEDDINGS].dtype

    def tied(self) -> bool:
        """Tell whether the output layer is left out or holds the same numbers as the embeddings."""
        headers = self.headers()
        if any(OUTPUT not in header for header in headers):
            return all(OUTPUT not in header for header in headers)
        if any(header.get(EMBEDDINGS) != header[OUTPUT] for header in headers):
            return False
        rows = headers[0][OUTPUT][0]
        return all(self._same_rows(start, start + _ROWS) for start in range(0, rows, _ROWS))

    def _same_rows(self, start: int, stop: int) -> bool:
        import torch

        return all(torch.equal(shard[EMBEDDINGS][start:stop], shard[OUTPUT][start:stop]) for shard in self.open())


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _load(path: Path, *, mmap: bool) -> dict[str, Tensor]:
    import torch

    try:
        tensors = torch.load(str(path), map_location="cpu", mmap=mmap, weights_only=True)
    # Mapping a truncated file is an OSError in some places and a RuntimeError in others.
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"{path}: truncated, or not a checkpoint of tensors ({path.stat().st_size} bytes)",
            hint="compare its size and checksum with the original (checklist.chk) and copy it again",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise IntegrityError(f"{path}: holds something else than tensors by name")
    return tensors
