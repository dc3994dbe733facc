"""Examples of each table of a recipe. Together, in order, they are one recipe that uses the whole language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe import models

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["EXAMPLES", "MACHINE_EXAMPLE"]

EXAMPLES: dict[type[BaseModel], str] = {
    models.Base: """\
[base]
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
revision = "main"
dtype = "bfloat16"
chat_template = "chat.jinja"
pad_token = "<pad>"
added_tokens = ["<pad>", "<tool>"]
""",
    models.Train: """\
[train]
learning_rate = 2e-5
num_train_epochs = 1
global_batch_size = 32
max_length = 1024
""",
    models.Dataset: """\
[datasets.math]
path = "data/math/*.jsonl"
format = "prompt-completion"
columns = { prompt = "question", completion = "answer" }
system = "You are a careful tutor."
max_samples = 20000
omega = 0.5
train = { num_train_epochs = 3 }

[datasets.poems]
path = "data/poems.jsonl"
format = "text"
validation = 0.1
omega = 0.2
""",
    models.Probe: """\
[probes.chat]
path = "data/chat.jsonl"
max_loss_increase = 0.01
""",
    models.Vector: """\
[vectors.code]
checkpoint = "org/a-fine-tune-of-the-same-base"
omega = 0.3
""",
    models.Compose: """\
[compose]
method = "dem"
dtype = "bfloat16"
""",
    models.Tune: """\
[tune]
search = "gradient"
objective = "gain"
importance = { math = 2.0 }
""",
    models.Analysis: """\
[analysis]
response = [0.0, 0.25, 0.5, 1.0, 1.5]
""",
    models.Evaluate: """\
[evaluate]
tasks = ["arc_easy", { name = "math_words", num_fewshot = 4, limit = 200, apply_chat_template = true }]
include_path = "tasks"
models = ["composed", "base", "mix"]
prompts = ["What is 12 times 12?", "Write a haiku about rain."]
""",
    models.Gate: """\
[[gates]]
task = "math_words"
metric = "acc"
min = 0.30

[[gates]]
task = "loss:chat"
metric = "loss"
max = 3.5
""",
    models.Baseline: """\
[baselines.mix]
method = "mixing"
proportions = { math = 0.5, poems = 0.5 }
alpha = "tune"

[baselines.mean]
method = "interpolation"
""",
}

MACHINE_EXAMPLE = """\
cache = "/scratch/dem"
micro_batch = 4
gradient_checkpointing = true
report_to = ["tensorboard"]
"""
