#!/usr/bin/env bash
# mergekit's `ties` and `della` divide by the sum of the weights unless told otherwise, `dare_ties` and `breadcrumbs_ties` do not: one
# model at weight 0.5 enters whole with the former and by half with the latter, and one at weight -1 is added by the former.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: all four have one default, as they share signs and weights; a weight of -1 subtracts in all of them.
# Seen, of one model at density 1: weight 0.5 gives 1.0 times its vector in ties and della, 0.5 times in the others; weight -1
# gives +1.0 times in ties and della (`normalize` defaults to true there), -1.0 times in the others.
# Why it matters: forgetting a skill by a negative weight does the opposite without a word; a recipe moved from one method to the
# other changes the length of every vector.
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
seen = {}
for method in ("ties", "della", "dare_ties", "breadcrumbs_ties"):
    for weight in (0.5, -1.0):
        seen[method, weight] = round(times(vector(method, {"one": {"weight": weight, "density": 1.0}})), 3)
        print(f"{method:17} weight {weight:4}: {seen[method, weight]} times the vector")
wanted = {(m, w): 1.0 for m in ("ties", "della") for w in (0.5, -1.0)}
wanted |= {(m, w): w for m in ("dare_ties", "breadcrumbs_ties") for w in (0.5, -1.0)}
sys.exit(seen != wanted)
PYTHON
