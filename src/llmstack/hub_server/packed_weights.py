"""How many parameters the tensors of a quantized model hold. Pure.

Several small numbers are packed into an integer, and tensors of scales are no parameters. The rules are those of
Hugging Face's `parseSafetensorsMetadata`, without mixed numbers of bits; those of MLX are in `mlx.nn.quantize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The bits of the integers that hold packed numbers.
_CONTAINERS = {"U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32}
# Data types of exponents: only scales have them.
_SCALES = frozenset({"F8_E8M0", "E8M0", "UE8"})
# The last part of the names of tensors that are no parameters, in any quantized model, and by method.
_AUXILIARY = frozenset(
    [
        *("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale", "weight_zero_point"),
        *("input_scale", "input_global_scale", "input_zero_point", "zero_point", "weight_shape", "weight_g_idx"),
    ]
)
_GPTQ = frozenset({"qzeros", "g_idx", "scales"})
_AUXILIARY_OF = {
    "gptq": _GPTQ,
    "awq": _GPTQ,
    "mlx": frozenset({"scales", "biases"}),
    "bitsandbytes": frozenset({"absmax", "quant_map", "nested_absmax", "nested_quant_map"}),
}
_BITS = 4
# MLX names no method: its config has the bits alone. Scales and biases are tensors beside each `weight`.
_MLX = "mlx"


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization that a model's config declares; `method` is "" without one."""

    method: str = ""
    bits: int | None = None
    packs: bool = False

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Quantization | None:
        """Read the quantization of a config.json; None without one. Invalid values are those of none."""
        text = config.get("text_config")
        inner = text if isinstance(text, dict) else {}
        value = config.get("quantization_config") or inner.get("quantization_config") or config.get("quantization")
        if not isinstance(value, dict):
            return None
        method, form, bits = (value.get(name) for name in ("quant_method", "format", "bits"))
        if method is None and "group_size" in value:
            method = _MLX
        if value.get("load_in_4bit") is True:
            bits = 4
        groups = value.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            weights = group.get("weights") if isinstance(group, dict) else None
            bits = bits or (weights.get("num_bits") if isinstance(weights, dict) else None)
        return cls(
            method.lower() if isinstance(method, str) else "",
            bits if type(bits) is int and 1 <= bits <= 32 else None,
            isinstance(form, str) and form.lower().endswith("pack-quantized"),
        )

    def parameters(self, name: str, dtype: str, count: int) -> int | None:
        """Return the number of parameters in a tensor of `count` numbers; None if it has none by its kind."""
        last = name.rpartition(".")[2]
        if last in _AUXILIARY or last in _AUXILIARY_OF.get(self.method, ()):
            return None
        if self.method == "bitsandbytes" and last.startswith("bitsandbytes__"):
            return None
        if self.method == "mxfp4" and dtype == "U8" and last.endswith("_scales"):
            return None
        size = _CONTAINERS.get(dtype, 0)
        bits = self._bits(name, last, dtype)
        return round(count * size / bits) if bits and bits < size else count

    def _bits(self, name: str, last: str, dtype: str) -> int | None:
        """Return the bits of a number in a tensor of integers; None if they are not packed."""
        if self.method == "compressed-tensors":
            return (self.bits or _BITS) if self.packs else None
        if self.method == "mxfp4":
            return _BITS if "_blocks" in name and dtype == "U8" else None
        if self.method in {"gptq", "awq"} and last == "qweight":
            return self.bits or _BITS
        if self.method == _MLX:
            return self.bits if dtype == "U32" and last == "weight" else None
        return self.bits if dtype == "U8" and self.bits in {2, 4} else None


def parameters(name: str, dtype: str, count: int, quantization: Quantization | None) -> int | None:
    """Return the number of parameters in a tensor of `count` numbers; None if it has none by its kind."""
    if dtype in _SCALES:
        return None
    return quantization.parameters(name, dtype, count) if quantization else count
