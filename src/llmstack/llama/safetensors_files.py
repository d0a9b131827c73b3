"""Write safetensors shards tensor by tensor, with the names, sizes and index of transformers.

The safetensors library needs all tensors of a file at once. This module holds one in memory at a time.
Format: https://huggingface.co/docs/safetensors/index (8 bytes little-endian header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from llmstack.errors import UsageError
from llmstack.llama.weights import Weight

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file to write: its name, and its tensors in order, all of one data type."""

    name: str
    weights: tuple[Weight, ...]
    dtype: str

    @property
    def header(self) -> bytes:
        """The header, with its length in front."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for weight in self.weights:
            end = offset + data_size(weight, self.dtype)
            entries[weight.hf_name] = {
                "dtype": _DTYPES[self.dtype],
                "shape": list(weight.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        # Pad as the library does, so that the data is aligned to eight bytes.
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return len(self.header) + sum(data_size(weight, self.dtype) for weight in self.weights)


def data_size(weight: Weight, dtype: str) -> int:
    """Return a tensor's size in bytes."""
    return math.prod(weight.shape) * ITEM_SIZES[dtype]


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `5GB` or `512MiB`, as transformers does."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match and match[2].upper() in _UNITS else 0
    if size < 1:
        raise UsageError(f"invalid size {text!r}", hint="use a number and a unit: 5GB, 512MiB")
    return size


def plan_files(weights: Iterable[Weight], dtype: str, limit: int) -> tuple[ShardFile, ...]:
    """Distribute the tensors in order over files of at most `limit` bytes of data. A larger tensor has its own file."""
    groups: list[list[Weight]] = [[]]
    used = 0
    for weight in weights:
        size = data_size(weight, dtype)
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(weight)
        used += size
    if len(groups) == 1:
        return (ShardFile("model.safetensors", tuple(groups[0]), dtype),)
    return tuple(
        ShardFile(f"model-{number:05}-of-{len(groups):05}.safetensors", tuple(group), dtype)
        for number, group in enumerate(groups, 1)
    )


def weight_index(files: Iterable[ShardFile]) -> dict[str, Any]:
    """Return the contents of model.safetensors.index.json: the file of each tensor."""
    pairs = [(weight, file) for file in files for weight in file.weights]
    return {
        "metadata": {
            "total_parameters": sum(math.prod(weight.shape) for weight, _ in pairs),
            "total_size": sum(data_size(weight, file.dtype) for weight, file in pairs),
        },
        "weight_map": {weight.hf_name: file.name for weight, file in pairs},
    }


class ShardWriter:
    """Writes the planned files into a directory, tensor by tensor in order."""

    def __init__(self, directory: Path, files: Iterable[ShardFile]) -> None:
        self._directory = directory
        self._queue = deque((file, weight) for file in files for weight in file.weights)
        self._name = ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close()

    def add(self, rows: Iterable[Tensor]) -> None:
        """Write the next tensor, given as contiguous blocks of rows with the planned size and type."""
        import torch

        file, weight = self._queue.popleft()
        out, written = self._open(file), 0
        for tensor in rows:
            written += out.write(tensor.view(-1).view(torch.uint8).numpy())
        if written != data_size(weight, file.dtype):
            raise ValueError(f"{weight.hf_name}: {written} bytes were written, not {data_size(weight, file.dtype)}")

    def _open(self, file: ShardFile) -> BinaryIO:
        if self._file is None or file.name != self._name:
            self._close()
            self._name = file.name
            self._file = (self._directory / file.name).open("wb")
            self._file.write(file.header)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
