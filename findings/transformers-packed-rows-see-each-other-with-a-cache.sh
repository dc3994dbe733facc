#!/usr/bin/env bash
# transformers keeps packed documents apart by their `position_ids` only while the model makes no cache; with `use_cache`, which is
# on unless somebody turns it off, each document sees those before it in its row.
#
# Versions: transformers 5.24.0, torch 2.13.0 (CPU).
# Guess before looking: whether a forward pass fills a cache that nobody reads changes nothing that it returns.
# Seen, with what `DataCollatorWithFlattening` makes of two documents, in sdpa and eager: at `use_cache=False` the second has the
# logits that it has alone (to 1e-5); by default, and at True, they differ by more than 1, also in training mode. No warning.
# Promised: the collator warns that attention must be able to handle one long row, and means the kernel; `Trainer` turns the cache
# off, a training loop of one's own does not.
# Why it matters: such a loop trains on documents that read their neighbours, and the loss of packed rows is another measure than
# that of single ones. `dem` passes `use_cache=False`, and refuses to pack for a model that mixes documents.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

first, second = list(range(3, 10)), list(range(20, 26))
packed = DataCollatorWithFlattening()([{"input_ids": first}, {"input_ids": second}])
print("transformers", version("transformers"), "torch", version("torch"), "positions", packed["position_ids"][0].tolist())


def distance(kernel, cache):
    """Return how far the second document's logits are from those it has alone, when packed behind the first."""
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.5, attn_implementation=kernel)).train()
    with torch.no_grad():
        alone = model(torch.tensor([second])).logits[0]
        behind = model(**packed, **({} if cache is None else {"use_cache": cache})).logits[0, len(first) :]
    return (behind - alone).abs().max().item()


as_seen = True
for kernel in ("sdpa", "eager"):
    seen = {cache: distance(kernel, cache) for cache in (None, True, False)}
    print(f"{kernel:6}", *(f"use_cache={'(default)' if c is None else c}: {d:.2g}" for c, d in seen.items()))
    as_seen &= seen[False] < 1e-5 and seen[True] > 1 and seen[None] == seen[True]
sys.exit(not as_seen)
PYTHON
