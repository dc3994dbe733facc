#!/usr/bin/env bash
# mergekit leaves out what it does not know of a recipe, without a word: misspelt keys, misspelt parameters, and parameters that the
# method does not have, as `weight` in `sce`, where a model of weight 0 enters as much as the others.
#
# Versions: mergekit 0.1.5, torch 2.13.0 (CPU), transformers 5.24.0.
# Guess before looking: refused; the recipe is a pydantic model, and each method declares the names and types of its parameters.
# Seen: `densty: 0.1` in ties, with `weight: 1`, gives bit for bit the merge without it (one with `density: 0.1` is another);
# `weight: 0` for one of two models in sce gives bit for bit the merge of both; with `out_dtpye: bfloat16` the file is float32.
# Promised: nothing. The guide to methods lists `select_topk` alone for sce, whose weights follow from the vectors.
# Why it matters: a model is published as merged in a way in which it was not; leaving a model out by its weight, to see what it does,
# says that it does nothing. `dem` refuses what it does not know, and says what was meant.
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
WEIGHTS = {name: load_file(f"{name}/model.safetensors") for name in ("base", "one", "two")}
PATHS = {name: str(Path(name).absolute()) for name in WEIGHTS}
def merged(method, one, two, **keys):
    """Merge the two with those parameters; return all weights, flat."""
    models = [{"model": PATHS["one"], "parameters": one}, {"model": PATHS["two"], "parameters": two}]
    recipe = {"merge_method": method, "dtype": "float32", "base_model": PATHS["base"], "models": models} | keys
    run_merge(MergeConfiguration.model_validate(recipe), "out", MergeOptions(copy_tokenizer=False, quiet=True))
    made = load_file("out/model.safetensors")
    return torch.cat([made[name].flatten() for name in sorted(made)])


print("mergekit", version("mergekit"), "torch", version("torch"), "transformers", version("transformers"))
whole = {"weight": 1.0}
plain = merged("ties", whole, whole)
misspelt = torch.equal(merged("ties", whole | {"densty": 0.1}, whole | {"densty": 0.1}), plain)
sparse = torch.equal(merged("ties", whole | {"density": 0.1}, whole | {"density": 0.1}), plain)
out_of_sce = torch.equal(merged("sce", whole, {"weight": 0.0}), merged("sce", whole, whole))
print("ties: densty 0.1 gives what no density gives:", misspelt, " density 0.1 does:", sparse)
print("sce: weight 0 gives what weight 1 gives:", out_of_sce)
as_asked = [merged("sce", whole, whole, **{key: "bfloat16"}).dtype for key in ("out_dtype", "out_dtpye")]
print("out_dtype, out_dtpye: bfloat16 give", *as_asked)
sys.exit(not (misspelt and not sparse and out_of_sce and as_asked == [torch.bfloat16, torch.float32]))
PYTHON
