#!/usr/bin/env bash
# mergekit's `della_linear` does not keep a vector's length on average, as dropping at random and rescaling does in DARE: it keeps
# large elements more often, and rescales all by one factor, so the vector grows along itself.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: 1.0 times the vector on average for every epsilon, each element being divided by its own chance to be kept.
# Seen, density 0.5, mean over three seeds: about 1.00 at epsilon 0, 1.06 at 0.15 (the default), 1.15 at 0.45.
# Why it matters: epsilon is a weight in disguise; a comparison of DELLA with DARE at equal weights compares unequal weights.
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
for epsilon in (0.0, 0.15, 0.45):
    one = {"weight": 1.0, "density": 0.5, "epsilon": epsilon}
    seen[epsilon] = sum(times(vector("della_linear", {"one": one}, seed=seed)) for seed in (1, 2, 3)) / 3
    print(f"epsilon {epsilon:4}: {seen[epsilon]:.3f} times the vector")
near = {0.0: 1.0, 0.15: 1.06, 0.45: 1.15}
sys.exit(any(abs(seen[e] - near[e]) > 0.025 for e in near))
PYTHON
