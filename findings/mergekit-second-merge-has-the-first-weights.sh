#!/usr/bin/env bash
# A process that calls mergekit's `run_merge` again, after a model was written anew at its path, merges the weights that were there
# the first time.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: none of this behaviour; it was met in a loop over models whose results were all the same. One would expect the
# weights of the files that are there when `run_merge` is called.
# Seen, in a loop over the weight of a first merge whose output a second merge halves: the first merge's file is right each time, and the
# second merge is that of the loop's first weight each time, without a word. In a process of its own it is right.
# Promised: nothing of a cache. Loaders are kept in one table of the process by the model's name (`LoaderCache`), each with the file
# it read last open; `run_merge` empties it at no time. No issue of it was found.
# Why it matters: a search over recipes in two stages, or a model to which skills are added one after another at one path, measures its
# first candidate again and again, and the best one is never made. `dem` reads models by their content's hash and calls no mergekit.
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
cat > stages.py <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "model.layers.0.mlp.down_proj.weight"


def weights(name):
    return load_file(f"{name}/model.safetensors")[NAME]


def merge(model, weight, out):
    """Write the base and so many times the vector of a model."""
    listed = [{"model": str(Path(model).absolute()), "parameters": {"weight": weight}}]
    recipe = {"merge_method": "task_arithmetic", "dtype": "float32", "base_model": str(Path("base").absolute()), "models": listed}
    recipe["parameters"] = {"normalize": False}
    run_merge(MergeConfiguration.model_validate(recipe), out, MergeOptions(copy_tokenizer=False, quiet=True))


def times(name):
    """Return how many times the vector of `skill` is in a model."""
    vector = weights("skill") - weights("base")
    return round(((weights(name) - weights("base")) * vector).sum().item() / vector.square().sum().item(), 3)


if not Path("base").exists():
    print("mergekit", version("mergekit"), "torch", version("torch"), "transformers", version("transformers"))
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    base.save_pretrained("base")
    skill = LlamaForCausalLM(base.config)
    skill.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in base.state_dict().items()})
    skill.save_pretrained("skill")
seen = []
for weight in json.loads(sys.argv[1]):
    merge("skill", weight, "first")
    merge("first", 0.5, "second")
    seen.append((times("first"), times("second")))
    print(f"  weight {weight}: the first merge has {seen[-1][0]} times the vector, the second merge {seen[-1][1]}", file=sys.stderr)
print(json.dumps(seen), file=open("seen.json", "w"))
PYTHON
export HF_HUB_OFFLINE=1
run() {
  "$env/bin/python" -W ignore stages.py "$1" 2> log || { tail -n 5 log; exit 1; }
  grep '^  weight' log
}
echo "one process:"
run "[0.2, 0.6, 1.0]"
one=$(cat seen.json)
echo "a process of its own:"
run "[1.0]"
[ "$one" = "[[0.2, 0.1], [0.6, 0.1], [1.0, 0.1]]" ] && [ "$(cat seen.json)" = "[[1.0, 0.5]]" ]
