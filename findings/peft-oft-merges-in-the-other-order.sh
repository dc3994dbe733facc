#!/usr/bin/env bash
# Two OFT adapters that are active together, merged: the model is the one of the other order of the two.
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0 (CPU).
# Guess before looking, for seventeen of peft's methods: merging the active adapters gives the model that answered with both of them.
# Seen: so it is for LoRA, LoHa, LoKr, IA3, VeRA, FourierFT, RandLora, SHiRA, RoAd, MiSS, WaveFT, DeLoRA and GraLoRA, and for DoRA, BOFT and
# HRA, whose order counts. Of OFT, after `set_adapter(["a", "b"])`, `merge_and_unload()` is, to the last digits, the model of
# `set_adapter(["b", "a"])`, and the other way round; the two orders differ by half of what one adapter changes. One adapter is merged as it is.
# Promised: of the order of adapters nothing was found, and no issue of this. Active, OFT turns the layer's input by the first adapter and
# then by the second; merged, the first one's rotation is multiplied to the weight first, and so is the last that an input meets.
# Why it matters: what was evaluated with adapters switched on is not what is exported, and rotations do not commute. No file tells the order.
# `dem` reads no OFT adapter, and adds vectors, whose order is none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.24.0
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import copy
import sys
from importlib.metadata import version

import torch
from peft import BOFTConfig, HRAConfig, LoraConfig, OFTConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS, LAYERS = torch.arange(10)[None], ["q_proj", "down_proj"]
CONFIGS = {
    "LoRA": LoraConfig(r=4, target_modules=LAYERS),
    "DoRA": LoraConfig(r=4, use_dora=True, target_modules=LAYERS),
    "BOFT": BOFTConfig(boft_block_size=8, target_modules=LAYERS),
    "HRA": HRAConfig(r=4, target_modules=LAYERS),
    "OFT": OFTConfig(r=0, oft_block_size=8, target_modules=LAYERS),
}


@torch.no_grad()
def merged_and_active(config):
    """Return how far the merged model of `a`, `b` is from those two active, from `b`, `a` active, and these from each other and from `a`."""
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), copy.deepcopy(config), adapter_name="a").eval()
    model.add_adapter("b", copy.deepcopy(config))
    for name in "ab":
        model.set_adapter(name)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    found = {}
    for names in (["a"], ["a", "b"], ["b", "a"]):
        model.base_model.set_adapter(names)
        found["".join(names)] = model(IDS).logits
    model.base_model.set_adapter(["a", "b"])
    found["merged"] = copy.deepcopy(model).merge_and_unload()(IDS).logits
    model.base_model.set_adapter(["a"])
    found["one merged"] = copy.deepcopy(model).merge_and_unload()(IDS).logits
    pairs = (("merged", "ab"), ("merged", "ba"), ("ab", "ba"), ("one merged", "a"))
    return [(found[one] - found[other]).abs().max().item() for one, other in pairs]


print("peft", version("peft"), "transformers", version("transformers"), "torch", version("torch"))
wrong = []
for name, config in CONFIGS.items():
    same, other, orders, alone = merged_and_active(config)
    print(f"{name}: merged a, b; off from a, b active by {same:.1e}, from b, a by {other:.1e}; the orders differ by {orders:.1e}; a alone by {alone:.1e}")
    if alone > 1e-6:
        sys.exit(f"{name}: one adapter is merged as another")
    if same > 1e-6:
        wrong.append((name, other < 1e-6 < 1e-4 < orders))
if wrong != [("OFT", True)]:
    sys.exit(f"not as it was: {wrong}")
print("as seen: OFT alone, and as the other order")
PYTHON
