"""Tiny random models of families whose files transformers holds in memory in another layout, saved by transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 259  # of the tokenizer of tiny.make_base
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
ROUTED = {
    "moe_intermediate_size": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    # a name alone
    "gpt_neox": {"attention_dropout": 0.0, "hidden_dropout": 0.0},
    # names alone, of fused experts
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    # experts one by one, which are fused by two operations, with and without a name that changes
    "qwen2_moe": {
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 12, "num_experts": 1, "num_experts_per_tok": 1},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "router_jitter_noise": 0.0,
        "input_jitter_noise": 0.0,
    },
    "minimax": {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
    "jamba": {
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    # a buffer that is a weight, and stays in float32
    "deepseek_v3": MLA | ROUTED,
    # one tensor of the files becomes several, and several become one
    "hrm_text": {},
    "olmo_hybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


def make_family(family: str, tokenizer: Path, folder: Path, *, fused: bool = False, **config: Any) -> Any:
    """Write a base with the tokenizer of another folder; return its model.

    Args:
        family: Its `model_type`.
        tokenizer: A folder with a tokenizer of VOCABULARY tokens.
        folder: Where the base is written.
        fused: In transformers' layout in memory, not in that in which such models are published.
        config: What differs.
    """
    torch.manual_seed(0)
    settings: Any = AutoConfig.for_model(family, **COMMON | FAMILIES.get(family, {}) | config)
    model: Any = AutoModelForCausalLM.from_config(settings).float()
    model.save_pretrained(folder, save_original_format=not fused)
    for file in tokenizer.glob("token*"):
        shutil.copy(file, folder)
    return model


@torch.no_grad()
def move(model: Any, share: float, seed: int = 7) -> None:
    """Move each float of a model's state a little, buffers among them, as a training would."""
    generator = torch.Generator().manual_seed(seed)
    for values in model.state_dict().values():
        if values.is_floating_point():
            size = values.square().mean().sqrt() + 0.01
            values.add_(share * size * torch.randn(values.shape, generator=generator))


def state_of(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Return what transformers makes of a folder, in float64; nothing may be missing, or more than it wants."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    model, report = loaded
    assert not any(report.values()), report
    return {name: t.double() for name, t in model.state_dict().items() if t.is_floating_point()}
