#!/usr/bin/env bash
# A gradient of mergekit, a list of values for a parameter, gives the final norm and the head its first value, not its last; it runs
# over each slice anew, and over a slice of one layer it is its last value.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: over the whole depth, so [0, 1] is 0 at the embedding, 1 at the last layer, and 1 at norm and head behind it.
# Seen, of task_arithmetic at `weight: [0, 1]` over 4 layers: embedding 0; layers 0, 1/3, 2/3, 1; norm 0, head 0. In two slices of 2
# layers: 0, 1, 0, 1. In four slices of one layer: 1, 1, 1, 1.
# Promised: lists are gradients whose numbers are interpolated; over what, the README does not say.
# Why it matters: a merge that is to be one model below and the other above reads the last layers of the one through the head of the
# other; cutting a recipe into slices changes every weight. `dem` has one weight for a vector, and no gradients.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 mergekit==0.1.5 transformers==5.24.0
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, tie_word_embeddings=False
)
base = LlamaForCausalLM(shape)
base.save_pretrained("base")
for name in ("one", "two"):
    tuned = LlamaForCausalLM(shape)
    tuned.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in base.state_dict().items()})
    tuned.save_pretrained(name)
WEIGHTS = {name: load_file(f"{name}/model.safetensors") for name in ("base", "one", "two")}
PATHS = {name: str(Path(name).absolute()) for name in WEIGHTS}
GRADIENT = {"model": PATHS["one"], "parameters": {"weight": [0, 1]}}
LAYERS = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
NAMES = ["model.embed_tokens.weight", *LAYERS, "model.norm.weight", "lm_head.weight"]


def times(**recipe):
    """Return how many times the vector of `one` is in each tensor that was merged."""
    recipe |= {"merge_method": "task_arithmetic", "dtype": "float32", "base_model": PATHS["base"]}
    run_merge(MergeConfiguration.model_validate(recipe), "out", MergeOptions(copy_tokenizer=False, quiet=True))
    made, shares = load_file("out/model.safetensors"), []
    for name in NAMES:
        vector = WEIGHTS["one"][name] - WEIGHTS["base"][name]
        shares.append(round((((made[name] - WEIGHTS["base"][name]) * vector).sum() / vector.square().sum()).item(), 2) + 0.0)
    return shares


def sliced(length):
    """Return the recipe's slices, each of so many layers."""
    ranges = [{"layer_range": [i, i + length]} for i in range(0, 4, length)]
    return [{"sources": [{"model": PATHS["base"]} | there, GRADIENT | there]} for there in ranges]


print("mergekit", version("mergekit"), "torch", version("torch"), "transformers", version("transformers"))
print("weight [0, 1] at the embedding, layers 0 to 3, the norm, the head:")
seen = {"models": times(models=[GRADIENT])} | {f"slices of {n}": times(slices=sliced(n)) for n in (2, 1)}
for name, shares in seen.items():
    print(f"{name:11}", shares)
wanted = {"models": [0, 0, 0.33, 0.67, 1, 0, 0], "slices of 2": [0, 0, 1, 0, 1, 0, 0], "slices of 1": [0, 1, 1, 1, 1, 0, 0]}
sys.exit(seen != wanted)
PYTHON
