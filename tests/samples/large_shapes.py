"""Configs of models that are too large to be made here: memory is reckoned of them."""

from __future__ import annotations

from typing import Any

__all__ = ["LLAMAS"]


def _llama(hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": vocabulary > 100_000,
        "dtype": "bfloat16",
    }


LLAMAS = {
    "3B": _llama(3072, 8192, 28, 24, 8, 128_256),  # 3.21e9 parameters, tied
    "7B": _llama(4096, 11_008, 32, 32, 32, 32_000),  # 6.74e9
    "13B": _llama(5120, 13_824, 40, 40, 40, 32_000),  # 13.0e9
}
