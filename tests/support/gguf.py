"""GGUF files of any metadata, with random weights."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping


def gguf(metadata: Mapping[str, str | int], weights: int = 64, seed: int = 0) -> bytes:
    """Return a GGUF file with one tensor of `weights` values in 32 bits; the same arguments give the same bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata))
    for name, value in metadata.items():
        typed = struct.pack("<I", 8) + _string(value) if isinstance(value, str) else struct.pack("<II", 4, value)
        head += _string(name) + typed
    head += _string("token_embd.weight") + struct.pack("<IQIQ", 1, weights, 0, 0)
    return head + b"\0" * (-len(head) % 32) + random.Random(seed).randbytes(4 * weights)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
