"""config.json and generation_config.json, with the keys of transformers 4. transformers 5 reads them too."""

from __future__ import annotations

from typing import Any

from llmstack.llama.params import Params, Version
from llmstack.llama.vocabulary import SpecialTokens

_THETA = {Version.V1: 10000.0, Version.V2: 10000.0}
_THETA_3 = 500000.0
# Code Llama: version 2, trained with a longer context and a larger theta.
_LONG_CONTEXT_2 = 16384


def context_length(params: Params, version: Version) -> int:
    """Return the context length that the model was trained with, in tokens."""
    if not version.tiktoken and (params.rope_theta or 0) > _THETA[version]:
        return _LONG_CONTEXT_2
    return version.context_length


def model_config(
    params: Params, version: Version, *, vocab_size: int, dtype: str, tied: bool, specials: SpecialTokens
) -> dict[str, Any]:
    """Return the contents of config.json."""
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0 if version is Version.V3_2 else 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": specials.bos_id,
        "eos_token_id": specials.stop_ids[0] if len(specials.stop_ids) == 1 else list(specials.stop_ids),
        "hidden_act": "silu",
        "hidden_size": params.dim,
        "initializer_range": 0.02,
        "intermediate_size": params.intermediate_size,
        "max_position_embeddings": context_length(params, version),
        "mlp_bias": False,
        "num_attention_heads": params.n_heads,
        "num_hidden_layers": params.n_layers,
        "num_key_value_heads": params.n_kv_heads,
        "rms_norm_eps": params.norm_eps,
        "rope_scaling": scaling if params.scaled_rope else None,
        "rope_theta": params.rope_theta or _THETA.get(version, _THETA_3),
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def generation_config(specials: SpecialTokens) -> dict[str, Any]:
    """Return the contents of generation_config.json: Meta's sampling parameters, and the stop tokens."""
    return {
        "bos_token_id": specials.bos_id,
        "do_sample": True,
        "eos_token_id": specials.stop_ids[0] if len(specials.stop_ids) == 1 else list(specials.stop_ids),
        "temperature": 0.6,
        "top_p": 0.9,
    }
