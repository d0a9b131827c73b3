"""Read Meta's consolidated.NN.pth files with torch, mapped into memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmstack.errors import IntegrityError
from llmstack.llama.checkpoint_files import HEAD, check_content
from llmstack.llama.weights import EMBEDDINGS, OUTPUT, Shape

if TYPE_CHECKING:
    from torch import Tensor, dtype

_ZIP = b"PK\x03\x04"
# Rows compared at a time to see whether the output layer equals the embeddings.
_ROWS = 16384


class Checkpoint:
    """The shards of one checkpoint.

    Each `open` maps the files again, so that pages leave memory when the caller drops the tensors. Raises
    IntegrityError if a file is truncated or not a checkpoint of tensors.
    """

    def __init__(self, paths: Sequence[Path], warn: Callable[[str], None]) -> None:
        self._paths = paths
        self._loaded: dict[Path, dict[str, Tensor]] = {}
        for path in paths:
            with path.open("rb") as file:
                head = file.read(HEAD)
            check_content(path, head)
            if not head.startswith(_ZIP):
                # The format of torch before 1.6 cannot be mapped.
                warn(f"{path}: an old checkpoint format, which must be loaded into memory completely")
                self._loaded[path] = _load(path, mmap=False)

    def open(self) -> list[dict[str, Tensor]]:
        """Return each shard's tensors by name. Data is read when a tensor is used."""
        return [self._loaded[path] if path in self._loaded else _load(path, mmap=True) for path in self._paths]

    def headers(self) -> list[dict[str, Shape]]:
        """Return each shard's shapes by name."""
        return [{name: tuple(tensor.shape) for name, tensor in shard.items()} for shard in self.open()]

    def dtype(self) -> dtype:
        """Return the data type of the embeddings, which is that of all weights."""
        return self.open()[0][EMBEDDINGS].dtype

    def tied(self) -> bool:
        """Tell whether the output layer is missing or equals the embeddings."""
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


def _load(path: Path, *, mmap: bool) -> dict[str, Tensor]:
    import torch

    try:
        tensors = torch.load(str(path), map_location="cpu", mmap=mmap, weights_only=True)
    # Mapping a truncated file raises OSError or RuntimeError.
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise IntegrityError(
            f"{path}: truncated, or not a checkpoint of tensors ({path.stat().st_size} bytes)",
            hint="compare its size and checksum with the original (checklist.chk), and copy it again",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise IntegrityError(f"{path}: not a mapping of names to tensors")
    return tensors
