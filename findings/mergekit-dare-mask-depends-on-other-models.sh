#!/usr/bin/env bash
# In mergekit's DARE a model of weight 0 changes the result: with one random seed, which elements of a vector are kept depends on
# the other models of the merge and on their order.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: with --random-seed a vector keeps the same elements whatever stands beside it, and weight 0 is nothing.
# Seen: dare_linear, density 0.5, seed 1: twice the same merge gives the same bytes; with a second model at weight 0 the first
# one's kept elements are others for most tensors.
# Why it matters: adding a skill draws all earlier ones anew, so no result of before can be compared with or kept. Random numbers
# want to be keyed by what they prune.
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
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, tie_word_embeddings=False
)
base = LlamaForCausalLM(shape)
base.save_pretrained("base")
for name in ("one", "two"):
    tuned = LlamaForCausalLM(shape)
    tuned.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in base.state_dict().items()})
    tuned.save_pretrained(name)
BASE, ONE = (load_file(f"{name}/model.safetensors") for name in ("base", "one"))


def vector(method, models, seed=None):
    """Merge the models, a name and its parameters each, into the base; return what that added to the base, flat."""
    listed = [{"model": str(Path(name).absolute()), "parameters": given} for name, given in models.items()]
    recipe = {"merge_method": method, "dtype": "float32", "base_model": str(Path("base").absolute()), "models": listed}
    run_merge(MergeConfiguration.model_validate(recipe), "out", MergeOptions(copy_tokenizer=False, random_seed=seed, quiet=True))
    made = load_file("out/model.safetensors")
    return torch.cat([(made[k] - BASE[k]).flatten() for k in sorted(BASE)])


delta = torch.cat([(ONE[k] - BASE[k]).flatten() for k in sorted(BASE)])


def times(made):
    """Return how many times the vector of `one` is in what was made."""
    return (made @ delta / delta.square().sum()).item()


print("mergekit", version("mergekit"), "torch", version("torch"), "transformers", version("transformers"))
one = {"weight": 1.0, "density": 0.5}
alone, again = (vector("dare_linear", {"one": one}, seed=1) for _ in range(2))
beside = vector("dare_linear", {"one": one, "two": {"weight": 0.0, "density": 0.5}}, seed=1)
same_kept = ((alone != 0) == (beside != 0)).float().mean().item()
print("the same merge twice is equal:", torch.equal(alone, again))
print(f"elements of which both say alike whether they are kept, with a model of weight 0 beside it: {same_kept:.3f}")
sys.exit(not (torch.equal(alone, again) and 0.4 < same_kept < 0.7))
PYTHON
