#!/usr/bin/env bash
# With `gradient_accumulation_steps=4`, Trainer's loss and gradients of masked language models and of heads for classification are 4 times
# those of the same rows in one batch, and so is the router's share of the loss of a mixture of experts.
#
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU).
# Guess before looking: 8 rows make the same step as 1 batch of 8, 4 of 2 or 8 of 1, but for rounding; a causal model's do.
# Seen, over that of one batch: the gradient is 4.0 times in batches of 2 and 8.0 times in batches of 1 for BERT's masked language model and
# its classifier and for Llama's classifier. Mixtral's loss with `output_router_logits` has the sum of the batches' router losses, not their mean.
# Trainer leaves the division to whatever model takes keywords (`**kwargs`), and these do not divide: some hand `num_items_in_batch` to no loss, and
# in Mixtral it divides the cross-entropy, while `router_aux_loss_coef` times the router's loss is added anew in each of the batches.
# Known: of heads, huggingface/transformers#47688 (open). Of the router's share we found no report.
# Why it matters: a smaller batch for want of memory is another training. `max_grad_norm=1.0` hides it, as it clips all the more; for the router
# the coefficient itself is multiplied, and no clipping hides that. `dem` sums the cross-entropy of tokens in a loop of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import contextlib
import io
import sys
from importlib.metadata import version

import torch
from transformers import (
    BertConfig, BertForMaskedLM, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, MixtralConfig,
    MixtralForCausalLM, Trainer, TrainingArguments,
)  # fmt: skip

random = torch.Generator().manual_seed(1)
documents = [torch.randint(1, 64, (12,), generator=random) for _ in range(8)]
tokens = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in documents]
classes = [{**row, "labels": torch.tensor(number % 3)} for number, row in enumerate(tokens)]
shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
decoder = {**shape, "num_key_value_heads": 2, "initializer_range": 0.4}
bert = BertConfig(**shape, num_labels=3, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
ROUTER = 0.5
experts = MixtralConfig(**decoder, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True, router_aux_loss_coef=ROUTER)
cases = {
    "Llama, causal": (lambda: LlamaForCausalLM(LlamaConfig(**decoder)), tokens),
    "Llama, classifier": (lambda: LlamaForSequenceClassification(LlamaConfig(**decoder, num_labels=3)), classes),
    "BERT, masked": (lambda: BertForMaskedLM(bert), tokens),
    "BERT, classifier": (lambda: BertForSequenceClassification(bert), classes),
    "Mixtral, router": (lambda: MixtralForCausalLM(experts), tokens),
}


def step(make, rows, size):
    """Return the loss and the gradient's norm of one step on all rows, in batches of that size."""
    torch.manual_seed(0)
    arguments = TrainingArguments(
        "out", per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, max_steps=1, logging_steps=1, max_grad_norm=1e9,
        learning_rate=0, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(make(), arguments, train_dataset=rows)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]


print(*(f"{name} {version(name)}" for name in ("transformers", "accelerate", "torch")))
seen = {}
for name, (make, rows) in cases.items():
    seen[name] = by_size = {size: step(make, rows, size) for size in (8, 2, 1)}
    print(f"{name:18}", *(f"batches of {s}: loss {loss:6.3f} gradient {norm:7.3f}  " for s, (loss, norm) in by_size.items()))
torch.manual_seed(0)
mixtral = MixtralForCausalLM(experts)


def router(rows):
    """Return the router's share of the loss of those rows in one batch."""
    with torch.no_grad():
        return ROUTER * mixtral(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]}).aux_loss.item()


shares = {size: [router(tokens[start : start + size]) for start in range(0, 8, size)] for size in (8, 2, 1)}
rest = [seen["Mixtral, router"][size][0] - sum(found) for size, found in shares.items()]
for size, found in shares.items():
    print(f"router's share in batches of {size}: mean {sum(found) / len(found):.3f}, sum {sum(found):.3f}")
print("Mixtral's loss less the sum:", *(f"{loss:.3f}" for loss in rest))
times = {name: [by_size[size][1] / by_size[8][1] for size in (2, 1)] for name, by_size in seen.items()}
same = all(abs(factor - 1) < 1e-3 for factor in times["Llama, causal"])
multiplied = all(
    abs(factor - wanted) < 1e-2
    for name in ("Llama, classifier", "BERT, masked", "BERT, classifier")
    for factor, wanted in zip(times[name], (4, 8), strict=True)
)
summed = max(rest) - min(rest) < 0.3 and sum(shares[1]) > 7 * shares[8][0]  # of pairs Trainer makes others: it shuffles
sys.exit(not (same and multiplied and summed))
PYTHON
