"""What a training on a CPU holds is what `dem plan` says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dem_build.estimate import Rows, Shape, held_memory
from dem_build.estimate.memory import Judging, held_by_search
from dem_build.machine import Machine
from dem_build.slots import Slot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8192,
    "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
PARAMS = {
    "method": "full", "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
    "learning_rate": 1e-4, "max_steps": 2, "global_batch_size": 8, "bf16": True, "lr_scheduler_type": "constant",
    "weight_decay": 0.0, "max_grad_norm": 1.0, "vector_dtype": "bfloat16", "seed": 0,
}  # fmt: skip
WITHIN = 0.15
"""Of the formula's part: the libraries, nearly half of so small a process, are measured before it and left out."""
LENGTH, SHORT, LONG = 128, 16, 512

CHILD = r"""
import json, sys, threading
from pathlib import Path
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from dem_build.data.arrays import RowsWriter
from dem_build.machine import Machine
from dem_build.actions.finetune import run as finetune
from dem_build.actions.tune.candidates import resident
from dem_build.actions.tune.judges import judges
from dem_build.actions.tune.passes import Passes, begin
from dem_build.checkpoint.delta import delta_shapes, write_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import trained_prompts
from dem_build.step import Context, Group, Inputs
from dem_build.model.environment import release_memory

home, told = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)
(home / "weights").mkdir()
LlamaForCausalLM(LlamaConfig(**told["config"])).save_pretrained(home / "weights")
rng = np.random.default_rng(0)
with RowsWriter(home / "spool") as writer:
    for i in range(16):
        # Of several lengths, as rows are, and the longest among them.
        ids = rng.integers(3, told["config"]["vocab_size"], told["length"] - 16 * (i % 4)).astype(np.int32)
        writer.append(ids, ids, i.to_bytes(16, "big"))
    writer.save(home / "rows")
for name, rows, length in told["judged"]:
    with RowsWriter(home / "spooled") as writer:
        for i in range(rows):
            ids = rng.integers(3, told["config"]["vocab_size"], length).astype(np.int32)
            writer.append(ids, ids, i.to_bytes(16, "big"))
        writer.save(home / name)

def held(kinds):
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return 1024 * sum(int(line[1]) for line in lines if line and line[0] in kinds)

def context_of(name, **other):
    (home / name / "out").mkdir(parents=True)
    machine = Machine(**told["machine"] | other)
    return Context(work=home / name, out=home / name / "out", machine=machine, threads=1)

def train(name, params):
    context = context_of(name)
    paths = {"base/weights": home / "weights", "data/train": home / "rows"}
    paths["base/config"] = home / "weights" / "config.json"
    finetune.run(Inputs(paths=paths, digests={"base/weights": "b" * 64}), params, context)

VECTORS = 4

def judged(name, rows, **machine):
    log = begin(context_of(name, **machine))
    group = Group("d", {}, {"data/validation": home / rows}, {"data/validation": "d" * 64})
    [judge] = judges({"d": group}, {"d": "data/validation"}, trained_prompts([]), 16)
    paths = {"base/weights": home / "weights", "base/config": home / "weights" / "config.json"}
    deltas = {str(i) * 64: home / f"delta{i}" for i in range(VECTORS)}
    candidates = resident(Inputs(paths=paths, digests={"base/weights": "b" * 64}), deltas, log.context)
    omega = np.full((VECTORS, len(candidates.layers)), 0.5)
    candidates.become(omega)  # until then its weights are those of a file in float32, mapped
    step = lambda: Passes(candidates, [judge], "bfloat16", log).take(omega, slopes=True)
    return step, sum(p.numel() * 4 for p in candidates.model.parameters())

def searched(name, rows, **machine):
    step, size = judged(name, rows, **machine)
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of anonymous and mapped memory begins anew
    before = held(("VmRSS:",))
    step()
    return size + held(("VmHWM:",)) - before

def peak_of(step):
    # What a step adds to what is there before it, without mapped files: the system has no peak of that.
    release_memory()
    kinds = ("RssAnon:",)
    ended, before = threading.Event(), held(kinds)
    peak = [before]

    def watch():
        while not ended.wait(0.002):
            peak[0] = max(peak[0], held(kinds))

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    ended.set()
    watcher.join()
    return peak[0] - before

shapes = delta_shapes(open_checkpoint(home / "weights"))
for i in range(VECTORS):
    made = ((name, rng.standard_normal(shape).astype(np.float32) / 1000) for name, shape in shapes.items())
    write_delta(home / f"delta{i}", "b" * 64, shapes, made, "bfloat16")
judged("first", "short", gradient_checkpointing=True)[0]()  # makes code for the shapes
found = [searched("short-rows", "short"), searched("long-rows", "long")]
found.append(searched("computed-again", "long", gradient_checkpointing=True))
train("before", told["params"][0] | {"max_steps": 1})  # loads what a training loads
trained = [peak_of(lambda: train(str(i), params)) for i, params in enumerate(told["params"])]
print(json.dumps([*trained, *found]))
"""


def test_a_training_and_a_pass_of_a_search_hold_on_a_cpu_what_is_planned(tmp_path: Path) -> None:
    alone = PARAMS | {"global_batch_size": 4}  # one pass a step, where the others have two
    lora = PARAMS | {"method": "lora", "lora_r": 16, "lora_alpha": 32.0, "lora_dropout": 0.0}
    lora |= {"lora_target_modules": "all-linear"}
    trained = [PARAMS, PARAMS | {"optim": "adafactor"}, alone, lora]
    machine = Machine(micro_batch=4)
    told = {
        "config": CONFIG,
        "params": trained,
        "machine": machine.model_dump(),
        "length": LENGTH,
        "judged": [("short", 4, SHORT), ("long", 1, LONG)],
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(told)],
        env={**os.environ, **Slot((), 1).environment(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shape = Shape.of(CONFIG)
    assert shape is not None
    tokens = 16 * (LENGTH - 24)
    data = Rows(16, tokens, tokens)
    planned = [held_memory(shape, params, machine, LENGTH, data) for params in trained]
    # Of short rows, gradients that stayed, or vectors, would be a third more; of a long one the activations are as much
    # as the model where layers keep them, and half of that where they are computed again.
    again = Machine(micro_batch=4, gradient_checkpointing=True)
    planned += [held_by_search(shape, machine, Judging(SHORT, 4, slopes=True))]
    planned += [held_by_search(shape, one, Judging(LONG, 1, slopes=True)) for one in (machine, again)]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(planned, rel=WITHIN)


def test_a_block_of_rows_that_share_prompts_may_hold_as_many_as_a_batch_has():
    machine = Machine(micro_batch=8, eval_batch_size=64)
    assert Judging(10, 32, slopes=True).tokens(machine) == (320, 20)
    assert Judging(10, 32, slopes=True, repeats=True).tokens(machine) == (320, 80)
