#!/usr/bin/env bash
# peft's `add_weighted_adapter(..., combination_type="linear")` adds factors, not products: an adapter with an identical copy of
# itself, at weights 1 and 1, becomes four times the adapter, and their average (0.5 and 0.5) twice.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU).
# Guess before looking: the linear combination of the two weight changes, so 2 and 1 times; "cat" does give that.
# Seen: with A = Σ √wᵢ Aᵢ and B = Σ √wᵢ Bᵢ the product B·A has the cross terms of every pair. Of two independent adapters they are
# as large as the wanted sum: its relative error was 0.97.
# Why it matters: a sum of vectors that is made this way is another model. `dem` multiplies each adapter out and adds the products.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.23.0
fi
"$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), lora, adapter_name="one")
model.add_adapter("copy", lora)
layer = model.base_model.model.model.layers[0].self_attn.q_proj
for factor in (layer.lora_A, layer.lora_B):
    factor["copy"].weight.data.copy_(factor["one"].weight.data)
one = layer.get_delta_weight("one").detach()

seen = {}
for kind in ("linear", "cat"):
    for weights in ([1.0, 1.0], [0.5, 0.5]):
        name = f"{kind}-{weights[0]}".replace(".", "_")
        model.add_weighted_adapter(["one", "copy"], weights, name, combination_type=kind)
        times = (layer.get_delta_weight(name).detach().flatten() @ one.flatten() / one.square().sum()).item()
        seen[kind, weights[0]] = round(times, 3)
        print(f"peft {version('peft')} {kind:6} of an adapter and its copy at {weights}: {times:.3f} times the adapter")
sys.exit(seen != {("linear", 1.0): 4.0, ("linear", 0.5): 2.0, ("cat", 1.0): 2.0, ("cat", 0.5): 1.0})
PYTHON
