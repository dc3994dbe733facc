#!/usr/bin/env bash
# `add_weighted_adapter` of one adapter at weight 1 gives another model where the adapter is of rsLoRA, DoRA or has a bias: the first
# is counted √r times, the magnitudes and biases of the others are left out.
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0 (CPU).
# Guess before looking: the adapter itself, by "cat", "svd" and "linear" alike, or an error where that cannot be.
# Seen, at rank 16: of rsLoRA 4.0 times the weight change (its scale √r stays switched on in the new adapter); of DoRA the change of
# the factors without the magnitudes, a fifth or more off in the logits; with `lora_bias` the factors without the bias. Patterns of
# ranks and alphas are kept. No warning, and what was made is saved that way.
# Promised: a new adapter that merges the given ones with the given weights. See peft's issue 3761.
# Why it matters: scaling an adapter by its weight, or mixing two, starts from another model than the one that was evaluated. `dem`
# multiplies each adapter out into the change it makes to all weights, rsLoRA's scale, DoRA's lengths and biases included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.24.0
fi
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@torch.no_grad()
def combined(kind, **options):
    """Return how many times the weight change is in the combined adapter, and how far its logits are off."""
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), config, adapter_name="one").eval()
    for name, parameter in model.named_parameters():
        if "magnitude" in name:  # as training moves them; they begin at the norms of the columns
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    ids = torch.arange(10)[None]
    with model.disable_adapter():
        base = model(ids).logits
    one = model(ids).logits
    model.add_weighted_adapter(["one"], [1.0], "again", combination_type=kind)
    model.set_adapter("again")
    layer = model.base_model.model.model.layers[0].self_attn.v_proj
    was, made = (layer.get_delta_weight(name).flatten() for name in ("one", "again"))
    return round((made @ was / was.square().sum()).item(), 2), round(((model(ids).logits - one).norm() / (one - base).norm()).item(), 2)


print("peft", version("peft"), "transformers", version("transformers"), "torch", version("torch"))
options = {"plain": {}, "patterns": {"alpha_pattern": {"v_proj": 64}}, "rslora": {"use_rslora": True}}
options |= {"dora": {"use_dora": True}, "bias": {"lora_bias": True}}
as_seen = True
for kind in ("cat", "svd", "linear"):
    for name, chosen in options.items():
        times, off = combined(kind, **chosen)
        print(f"{kind:6} of one {name:8} adapter at weight 1: {times} times its weight change, logits {off:.0%} off")
        as_seen &= times == (4.0 if name == "rslora" else 1.0) and (off > 0.1) == (name in ("rslora", "dora", "bias"))
sys.exit(not as_seen)
PYTHON
