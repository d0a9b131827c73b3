"""The headers of weight files: the number of parameters, and what GGUF says of the model. Pure.

Everything is read from strangers: bytes, entries and strings have limits.
Formats: https://huggingface.co/docs/safetensors/index, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from llmstack.errors import IntegrityError
from llmstack.hub_server.packed_weights import Quantization, parameters

# The first bytes of a safetensors file are the length of its header.
LENGTH = 8
MAX_SAFETENSORS = 8 * 1024 * 1024
# The tokenizers of large vocabularies take some 10 MB, their entries and merges less than a million strings.
MAX_GGUF = 64 * 1024 * 1024
_MAX_STRINGS = 4_000_000
_MAX_ENTRIES = 100_000
_MAX_KEY = 64 * 1024
_MAX_TEXT = 256 * 1024
_MAX_DIMENSIONS = 8
# JavaScript has no larger integers.
_MAX_COUNT = 2**53 - 1

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a GGUF file; `total` is the number of parameters in this file."""

    total: int
    architecture: str | None
    context_length: int | None
    chat_template: str | None
    file_type: int | None


def safetensors_length(start: bytes) -> int:
    """Return the length of a header from the first bytes of its file; raises IntegrityError."""
    length = int.from_bytes(start, "little")
    if len(start) != LENGTH or not 2 <= length <= MAX_SAFETENSORS:
        raise IntegrityError(f"safetensors: a header of {length} bytes; the limit is {MAX_SAFETENSORS}")
    return length


def safetensors_parameters(header: bytes, quantization: Quantization | None = None) -> dict[str, int]:
    """Return the number of parameters by data type; packed numbers are counted each. Raises IntegrityError."""
    try:
        # Tensors become counts while the header is parsed: it may have half a million.
        value = json.loads(header, object_pairs_hook=_tensor)
        found: Counter[str] = Counter()
        for name, (dtype, count) in value.items():
            if (number := parameters(name, dtype, count, quantization)) is not None:
                found[dtype] += number
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise IntegrityError("safetensors: invalid header") from error
    if sum(found.values()) > _MAX_COUNT:
        raise IntegrityError("safetensors: invalid shapes")
    return dict(found)


def _tensor(pairs: list[tuple[str, object]]) -> object:
    """Return a tensor's data type and count; the tensors of the header; None for other objects."""
    fields = dict(pairs) if len(pairs) <= 3 else {}
    shape, dtype = fields.get("shape"), fields.get("dtype")
    if isinstance(shape, list) and isinstance(dtype, str):
        if len(shape) > 64 or not all(type(size) is int and 0 <= size <= _MAX_COUNT for size in shape):
            raise ValueError("shape")
        return dtype[:32], math.prod(shape)
    return {name: value for name, value in pairs if isinstance(value, tuple)}


def read_gguf(chunks: Iterable[bytes]) -> Gguf:
    """Read the header of a GGUF file from its first bytes; raises IntegrityError, and what the chunks raise."""
    source = _Source(chunks)
    if source.take(4) != b"GGUF":
        _fail("not a GGUF file")
    version = source.number("I")
    if not version & 0xFFFF:
        source.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in {2, 3}:
        _fail(f"version {version} is unknown")
    tensors, entries = source.number("Q"), source.number("Q")
    if max(tensors, entries) > _MAX_ENTRIES:
        _fail(f"more than {_MAX_ENTRIES} entries")
    found = dict(_entries(source, entries))
    total = sum(_parameters(source) for _ in range(tensors))
    if total > _MAX_COUNT:
        _fail("invalid shapes")
    architecture = found.get("general.architecture")
    return Gguf(
        total,
        architecture if isinstance(architecture, str) else None,
        _integer(found.get(f"{architecture}.context_length")),
        template if isinstance(template := found.get("tokenizer.chat_template"), str) else None,
        _integer(found.get("general.file_type")),
    )


def _entries(source: _Source, count: int) -> Iterator[tuple[str, object]]:
    """Yield the entries that say something of the model, and skip the others."""
    for _ in range(count):
        key = source.text(_MAX_KEY)
        kind = source.number("I")
        if key in {"general.architecture", "tokenizer.chat_template"} and kind == _STRING:
            yield key, source.text(_MAX_TEXT)
        elif (key == "general.file_type" or key.endswith(".context_length")) and kind in _NUMBERS:
            yield key, source.number(_NUMBERS[kind])
        elif kind == _ARRAY:
            _skip_array(source)
        else:
            _skip_items(source, kind, 1)


def _skip_array(source: _Source, depth: int = 0) -> None:
    kind, count = source.number("I"), source.number("Q")
    if kind != _ARRAY:
        _skip_items(source, kind, count)
        return
    if depth == 3 or count > _MAX_ENTRIES:
        _fail("arrays are nested too deeply")
    for _ in range(count):
        _skip_array(source, depth + 1)


def _skip_items(source: _Source, kind: int, count: int) -> None:
    if kind in _NUMBERS:
        source.skip(count * struct.calcsize(f"<{_NUMBERS[kind]}"))
    elif kind == _STRING:
        source.skip_strings(count)
    else:
        _fail(f"type {kind} is unknown")


def _parameters(source: _Source) -> int:
    source.skip_strings(1)
    dimensions = source.number("I")
    if dimensions > _MAX_DIMENSIONS:
        _fail(f"a tensor of {dimensions} dimensions")
    count = math.prod(source.number("Q") for _ in range(dimensions))
    source.skip(struct.calcsize("<IQ"))
    return count


def _integer(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _fail(problem: str) -> NoReturn:
    raise IntegrityError(f"GGUF header: {problem}")


class _Source:
    """Reads values from chunks; holds one chunk and what does not fit into it, and stops at the limits."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.order = "<"
        self._chunks = iter(chunks)
        self._data = b""
        self._at = 0
        self._read = 0
        self._strings = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if len(self._data) - self._at < size:
            parts = [self._data[self._at :]]
            have = len(parts[0])
            while have < size:
                parts.append(self._next())
                have += len(parts[-1])
            self._data, self._at = b"".join(parts), 0
        self._at += size
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        while size > len(self._data) - self._at:
            size -= len(self._data) - self._at
            self._data, self._at = self._next(), 0
        self._at += size

    def number(self, code: str) -> int:
        """Return the next number."""
        code = self.order + code
        value = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return int(value) if not isinstance(value, float) else -1

    def text(self, limit: int) -> str:
        """Return the next string."""
        size = self.number("Q")
        if size > limit:
            _fail(f"a string of {size} bytes")
        return self.take(size).decode(errors="replace")

    def skip_strings(self, count: int) -> None:
        """Pass over strings."""
        self._strings += count
        if self._strings > _MAX_STRINGS:
            _fail(f"more than {_MAX_STRINGS} strings")
        unpack = struct.Struct(f"{self.order}Q").unpack_from
        for _ in range(count):
            if len(self._data) - self._at >= 8:
                size = unpack(self._data, self._at)[0]
                self._at += 8
            else:
                size = self.number("Q")
            if size <= len(self._data) - self._at:
                self._at += size
            else:
                self.skip(size)

    def _next(self) -> bytes:
        if self._read >= MAX_GGUF:
            _fail(f"longer than {MAX_GGUF} bytes")
        chunk = next(self._chunks, None)
        if chunk is None:
            _fail("it ends too early")
        self._read += len(chunk)
        return bytes(chunk)
