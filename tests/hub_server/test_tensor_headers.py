"""The headers of weight files: real ones, damaged ones, and those that would take all memory."""

from __future__ import annotations

import contextlib
import json
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import IntegrityError
from llmstack.hub_server.packed_weights import Quantization
from llmstack.hub_server.tensor_headers import (
    MAX_SAFETENSORS,
    Gguf,
    read_gguf,
    safetensors_length,
    safetensors_parameters,
)
from tests.support.weight_files import gguf, safetensors

ENTRIES = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 8192,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["<s>", "", "é" * 50] * 400,
    "tokenizer.ggml.scores": [0.5] * 900,
    "tokenizer.ggml.nested": [[1, 2], [3]],
    "tokenizer.chat_template": "{{ messages }}",
    "general.flag": True,
}
GGUF = gguf(ENTRIES, {"a.weight": (4, 8), "b.weight": (16,), "scalar": ()})


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_parameters_are_counted_by_data_type():
    file = safetensors({"a": ("F16", (4, 8)), "b": ("F16", (3,)), "c": ("I32", ()), "d": ("F32", (5, 0))})
    stop = 8 + safetensors_length(file[:8])
    assert safetensors_parameters(file[8:stop]) == {"F16": 35, "I32": 1, "F32": 0}


@pytest.mark.parametrize(
    ("config", "tensors", "expected"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            {
                "a.qweight": ("I32", (8, 16)),
                "a.qzeros": ("I32", (1, 2)),
                "a.scales": ("F16", (1, 16)),
                "b": ("F16", (3,)),
            },
            {"I32": 8 * 8 * 16, "F16": 3},
        ),
        ({"quant_method": "awq", "bits": 8}, {"a.qweight": ("I32", (8, 16))}, {"I32": 4 * 8 * 16}),
        (
            {"group_size": 64, "bits": 3},
            {
                "a.weight": ("U32", (4, 6)),
                "a.scales": ("F16", (4, 1)),
                "a.biases": ("F16", (4, 1)),
                "a.bias": ("F16", (4,)),
            },
            {"U32": 4 * 64, "F16": 4},
        ),
        ({"quant_method": "AWQ"}, {"a.qweight": ("I32", (2, 2))}, {"I32": 32}),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"a.weight": ("U8", (10, 1)), "a.weight.absmax": ("F32", (5,))},
            {"U8": 20},
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"a": {"weights": {"num_bits": 8}}},
            },
            {"a.weight_packed": ("I32", (3, 5)), "a.weight_shape": ("I32", (2,)), "a.weight_scale": ("F16", (3,))},
            {"I32": 60},
        ),
        ({"quant_method": "mxfp4"}, {"a_blocks": ("U8", (4, 4)), "a_scales": ("U8", (4,))}, {"U8": 32}),
        ({"quant_method": "fp8"}, {"a.weight": ("F16", (4, 4)), "a.weight_scale_inv": ("F32", (4,))}, {"F16": 16}),
        ({"bits": True, "quant_method": 5, "config_groups": {"a": [1]}}, {"a.weight": ("U8", (4,))}, {"U8": 4}),
        ([], {"a.qweight": ("I32", (4,))}, {"I32": 4}),
    ],
)
def test_packed_parameters_are_counted_each(config: Any, tensors: Any, expected: dict[str, int]):
    file = safetensors(tensors)
    header = file[8 : 8 + safetensors_length(file[:8])]
    assert safetensors_parameters(header, Quantization.parse({"quantization_config": config})) == expected


@pytest.mark.parametrize(
    "start", [b"", b"\0" * 8, b"\xff" * 8, (MAX_SAFETENSORS + 1).to_bytes(8, "little"), b"1234567"]
)
def test_an_invalid_length_is_refused(start: bytes):
    with pytest.raises(IntegrityError):
        safetensors_length(start)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"5",
        b"null",
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b'{"a":{"dtype":"F16","shape":[-1],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F16","shape":[1.5],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F16","shape":[9007199254740991,3],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F16","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}',
    ],
)
def test_an_invalid_safetensors_header_is_refused(header: bytes):
    with pytest.raises(IntegrityError):
        safetensors_parameters(header)


def test_a_large_safetensors_header_takes_little_memory():
    tensor = {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [0, 33554432]}
    header = json.dumps({f"model.layers.{number}.mlp.experts.up_proj.weight": tensor for number in range(60_000)})
    tracemalloc.start()
    try:
        assert safetensors_parameters(header.encode()) == {"BF16": 60_000 * 4096 * 4096}
        assert tracemalloc.get_traced_memory()[1] < 8 * len(header)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 7, 4096, len(GGUF)])
def test_a_gguf_header(size: int):
    assert read_gguf(pieces(GGUF, size)) == Gguf(32 + 16 + 1, "llama", 8192, "{{ messages }}", 15)


def test_a_gguf_header_of_the_other_byte_order():
    file = gguf({"general.architecture": "gpt2", "gpt2.context_length": 1024}, {"a": (2, 3)}, ">")
    assert read_gguf([file]) == Gguf(6, "gpt2", 1024, None, None)


def test_the_end_of_a_gguf_header_is_not_passed():
    seen = []

    def chunks() -> Iterator[bytes]:
        for chunk in pieces(GGUF + bytes(1_000_000), 1000):
            seen.append(len(chunk))
            yield chunk

    read_gguf(chunks())
    assert sum(seen) < len(GGUF) + 1000


HEAD = b"GGUF" + struct.pack("<I", 3)


NO_TENSOR = HEAD + struct.pack("<QQ", 0, 1)
ENTRY = NO_TENSOR + struct.pack("<Qc", 1, b"a")
TENSOR = HEAD + struct.pack("<QQQc", 1, 0, 1, b"a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        HEAD + struct.pack("<QQ", 2**63, 0),
        NO_TENSOR + struct.pack("<Q", 2**62),
        ENTRY + struct.pack("<I", 99),
        ENTRY + struct.pack("<IIQ", 9, 8, 2**60),
        ENTRY + struct.pack("<IIQ", 9, 10, 2**60),
        ENTRY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
        TENSOR + struct.pack("<I", 2**31),
        TENSOR + struct.pack("<IQQQIQ", 3, 2**60, 2**60, 2, 0, 0),
    ],
)
def test_an_invalid_gguf_header_is_refused(data: bytes):
    with pytest.raises(IntegrityError):
        read_gguf([data, bytes(100)])


def test_a_header_without_end_is_given_up():
    """A few bytes may announce more than any model has."""
    endless = HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**62)

    def chunks() -> Iterator[bytes]:
        yield endless
        while True:
            yield bytes(1024 * 1024)

    began = time.monotonic()
    with pytest.raises(IntegrityError, match="longer than"):
        read_gguf(chunks())
    assert time.monotonic() - began < 10


@given(st.binary(max_size=200), st.integers(0, len(GGUF) - 1), st.binary(min_size=1, max_size=8))
def test_damaged_headers_give_a_result_or_an_error(tail: bytes, at: int, damage: bytes):
    for data in (HEAD + tail, GGUF[:at] + damage + GGUF[at + len(damage) :], GGUF[:at]):
        with contextlib.suppress(IntegrityError):
            read_gguf([data])
    with contextlib.suppress(IntegrityError):
        safetensors_parameters(tail)
