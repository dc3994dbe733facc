#!/usr/bin/env bash
# Trainer's `loss` of training weighs tokens alike, its `eval_loss` of the same rows does not: it is a mean over rows of the mean of each
# row's batch, so that it moves with `per_device_eval_batch_size` and with the order of rows.
#
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU).
# Guess before looking: both are the mean over tokens, as the batch size is documented as a matter of memory and since Trainer counts the
# tokens of all batches that make up a step (`num_items_in_batch`).
# Seen, of 8 rows that train 2 to 30 tokens each: the mean over tokens is 5.26, and so is the training loss in batches of 1, 2 and 8.
# `eval_loss` is 5.26 in one batch of 8, 5.48 in batches of 1, and in batches of 2 5.38 or, with the rows sorted by length, 5.46.
# Promised: nothing; the examples of transformers publish its exponent as perplexity.
# Why it matters: validation curves of two runs, or perplexities of two models, compare batch sizes as much as models, most where rows
# train few tokens each. `dem` records a loss and a count for each row, and divides sums.
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
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

random = torch.Generator().manual_seed(1)
rows = []
for trained in (2, 30, 4, 12, 30, 2, 2, 24):
    ids = torch.randint(0, 64, (32,), generator=random)
    rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(torch.arange(32) >= 32 - trained, -100)})
by_length = sorted(rows, key=lambda row: int((row["labels"] != -100).sum()))


def losses(rows, size):
    """Return the loss of one step of training on all rows and eval_loss, in batches of that size."""
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.4))
    arguments = TrainingArguments(
        "out", per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, per_device_eval_batch_size=size, max_steps=1,
        logging_steps=1, learning_rate=0, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
        evaluated = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        totals = [model(**{k: v[None] for k, v in row.items()}).loss * (row["labels"] != -100).sum() for row in rows]
    tokens = sum(int((row["labels"] != -100).sum()) for row in rows)
    return [round(float(x), 2) for x in (trainer.state.log_history[0]["loss"], evaluated, sum(totals) / tokens)]


print(*(f"{name} {version(name)}" for name in ("transformers", "accelerate", "torch")))
seen = {}
for order, given in (("mixed", rows), ("by length", by_length)):
    for size in (1, 2, 8):
        seen[order, size] = training, evaluated, by_token = losses(given, size)
        print(f"{order:9} batches of {size}: training {training}  eval_loss {evaluated}  mean over tokens {by_token}")
evaluations = {evaluated for _, evaluated, _ in seen.values()}
sys.exit(not (len({(t, m) for t, _, m in seen.values()}) == 1 and seen["mixed", 8][0] == seen["mixed", 8][1] and len(evaluations) >= 3))
PYTHON
