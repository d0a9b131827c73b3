"""Small weight files: safetensors and GGUF, made from their headers."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping, Sequence

_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "U8": 1}


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> bytes:
    """Return a file with these tensors by name, each with its data type and shape; all numbers are zero."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(offset)


def gguf(
    entries: Mapping[str, object], tensors: Mapping[str, Sequence[int]], order: str = "<", seed: int | None = None
) -> bytes:
    """Return a file of version 3 with these entries and tensors of F32; all numbers are zero, or random by `seed`."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack(f"{order}Q", len(data)) + data

    def item(value: object) -> tuple[int, bytes]:
        if isinstance(value, str):
            return 8, text(value)
        if isinstance(value, bool):
            return 7, struct.pack("?", value)
        if isinstance(value, int):
            return 4, struct.pack(f"{order}I", value)
        if isinstance(value, float):
            return 6, struct.pack(f"{order}f", value)
        assert isinstance(value, list)
        items = [item(element) for element in value]
        return 9, struct.pack(f"{order}IQ", items[0][0], len(items)) + b"".join(data for _, data in items)

    parts = [b"GGUF", struct.pack(f"{order}IQQ", 3, len(tensors), len(entries))]
    for key, value in entries.items():
        kind, data = item(value)
        parts += [text(key), struct.pack(f"{order}I", kind), data]
    offset = 0
    for name, shape in tensors.items():
        parts += [text(name), struct.pack(f"{order}I{len(shape)}Q", len(shape), *shape)]
        parts.append(struct.pack(f"{order}IQ", 0, offset))
        offset += -(-math.prod(shape) * 4 // 32) * 32
    head = b"".join(parts)
    numbers = bytes(offset) if seed is None else random.Random(seed).randbytes(offset)
    return head + bytes(-len(head) % 32) + numbers
