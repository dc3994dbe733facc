#!/usr/bin/env bash
# Of two patterns of `alpha_pattern` that fit one module, the first counts; the saved config has them in alphabetical order, so an
# adapter that was trained with one scale is loaded with another.
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0 (CPU).
# Guess before looking: the model that was saved; at most a warning that two patterns fit one module.
# Seen, with an alpha of 64 for `layers.0.mlp.down_proj` and then one of 16 for `down_proj`: layer 0 has a scale of 8 while it is trained
# and of 2 once it is loaded, more than half of the change to the logits is gone, and nothing is said. Saved again it stays so. The other
# order, and patterns of which the special one comes first by alphabet as well, are loaded as they were.
# Promised: a mapping from names or expressions to alphas; of order, nothing. No issue of it was found. peft takes the first key that
# matches (`get_pattern_key`), and writes the config with its keys sorted, those within the mapping too.
# Why it matters: what was evaluated at the end of training is not what is published, merged or served. The files alone do not tell.
# `dem` reads an adapter's patterns in the order of its file, as peft does, and warns where another order would count; its own adapters
# have none.
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
import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.arange(10)[None]


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def scales(model):
    return [layer.mlp.down_proj.scaling["default"] for layer in model.base_model.model.model.layers]


@torch.no_grad()
def saved_and_loaded(alphas, folder):
    """Return the scales of both layers as made, as loaded and as loaded once more, how far logits are off, what was warned of."""
    config = LoraConfig(r=8, lora_alpha=8, target_modules=["down_proj"], alpha_pattern=alphas, init_lora_weights=False)
    made = get_peft_model(base(), config).eval()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        made.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(base(), folder).eval()
        loaded.save_pretrained(f"{folder}-again")
        again = PeftModel.from_pretrained(base(), f"{folder}-again").eval()
    said = [str(w.message) for w in warned if "pattern" in str(w.message)]
    print("given", alphas, "→ saved", json.loads(Path(folder, "adapter_config.json").read_text())["alpha_pattern"])
    before = base()(IDS).logits
    off = ((loaded(IDS).logits - made(IDS).logits).norm() / (made(IDS).logits - before).norm()).item()
    print(f"  scales made {scales(made)}, loaded {scales(loaded)}, loaded again {scales(again)}; logits {off:.0%} off; warned of: {said}")
    return scales(made), scales(loaded), scales(again), off > 0.5, said


print("peft", version("peft"), "transformers", version("transformers"), "torch", version("torch"))
special, all_layers, by_alphabet = "layers.0.mlp.down_proj", "down_proj", "mlp.down_proj"
seen = [
    saved_and_loaded({special: 64, all_layers: 16}, "moved"),
    saved_and_loaded({all_layers: 16, special: 64}, "other"),
    saved_and_loaded({special: 64, by_alphabet: 16}, "stays"),
]
high, low = [8.0, 2.0], [2.0, 2.0]
sys.exit(seen != [(high, low, low, True, []), (low, low, low, False, []), (high, high, high, False, [])])
PYTHON
