"""Times fine-tuning steps in dem, in a bare PyTorch loop and, if asked, in TRL: the same rows, step by step.

python bench/train.py [--trl PATH/TO/python] [--compiled] [--completion SHARE...] [--layers N] [--steps N] [--rounds N]

Each contestant is a process of its own that loads a random Llama of SmolLM2-135M's width, with four of its thirty
layers unless told otherwise, in float32 and trains it under bfloat16 autocast: once on all tokens of the rows
(`--completion 1`), once on the last 30 %. dem's process is what its workers are, with the allocator that they would be
given; with `--compiled` there is one more, whose recipe says `torch_compile = true`. A step's time is from the end of
the step before; the first step of a process does not count, nor does the very first process, which finds the machine's
memory cold. A token is one of the rows: padding is none. Each ratio is of the same step of the same round. CPU seconds,
of all threads, say what a step costs on a machine that is busy with other work, where tokens/s say little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import peak_rss, spread
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from weights import SMOL

from dem_build.actions.finetune import run as finetune
from dem_build.data.arrays import RowsWriter
from dem_build.machine import Machine
from dem_build.model.batches import RowOrder
from dem_build.slots import SLEEPING, Slot
from dem_build.step import Context, Inputs

VOCABULARY = SMOL["vocab_size"]
SHORTEST, LONGEST = 32, 160
SETTINGS = {"batch": 8, "micro_batch": 4, "learning_rate": 1e-4, "weight_decay": 0.01, "max_grad_norm": 1.0}
PARAMS = {
    "method": "full",
    "optim": "adamw_torch_fused",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "learning_rate": SETTINGS["learning_rate"],
    "num_train_epochs": 1,
    "global_batch_size": SETTINGS["batch"],
    "bf16": True,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": SETTINGS["weight_decay"],
    "max_grad_norm": SETTINGS["max_grad_norm"],
    "vector_dtype": "bfloat16",
    "seed": 0,
}


@dataclass
class Measured:
    """What the runs of one contestant took.

    Attributes:
        seconds: Wall time of each counted step, over all rounds.
        cpu: CPU time of each, of all threads.
        loss: Of the last step, which shows that all did the same work.
        peak: Resident memory, MiB.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    loss: float = 0.0
    peak: int = 0


@dataclass
class Clock(Context):
    """Notes when each optimizer step ended, and what it had cost."""

    ends: list[tuple[float, float]] = field(default_factory=list)
    loss: float = 0.0

    def progress(self, done: float, total: float, unit: str, **more: Any) -> None:
        """Note the time."""
        super().progress(done, total, unit, **more)
        self.ends.append((time.time(), time.process_time()))
        self.loss = more["loss"]


def write_base(home: Path, layers: int) -> None:
    """Write a random model in the shape of SmolLM2-135M, as dem and as transformers have it."""
    torch.manual_seed(0)
    config = LlamaConfig(**(SMOL | {"num_hidden_layers": layers, "dtype": "float32"}))
    LlamaForCausalLM(config).save_pretrained(home / "model")
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(
        home / "model"
    )
    (home / "weights").mkdir()
    (home / "weights" / "model.safetensors").symlink_to(home / "model" / "model.safetensors")


def write_rows(home: Path, steps: int, completion: float) -> list[int]:
    """Write the rows for dem, and in the order of dem's steps for the others; return each step's tokens."""
    rng = np.random.default_rng(0)
    rows = []
    for length in rng.integers(SHORTEST, LONGEST + 1, steps * SETTINGS["batch"]):
        ids = rng.integers(3, VOCABULARY, length).astype(np.int32)
        labels = ids.copy()
        labels[: round(length * (1 - completion))] = -100
        rows.append((ids, labels))
    with RowsWriter(home / "spool") as writer:
        for i, (ids, labels) in enumerate(rows):
            writer.append(ids, labels, i.to_bytes(16, "big"))
        writer.save(home / "rows")
    lengths = np.array([len(ids) for ids, _ in rows])
    order = RowOrder(lengths, SETTINGS["batch"], PARAMS["seed"])
    # In a step, the others have the rows as they were drawn and not by length, which is dem's doing.
    same = [rows[i] for step in range(steps) for i in sorted(order.rows(step))]
    (home / "rows.json").write_text(json.dumps([[a.tolist() for a in row] for row in same]))
    return [int(lengths[order.rows(step)].sum()) for step in range(steps)]


def train(home: Path, threads: int, *, compiled: bool) -> None:
    """Run dem's step in this process; print when each optimizer step ended, its loss and the peak memory."""
    work = Path(tempfile.mkdtemp(dir=home))
    (work / "out").mkdir()
    machine = Machine(micro_batch=SETTINGS["micro_batch"])
    clock = Clock(work=work, out=work / "out", machine=machine, threads=threads)
    paths = {
        "base/weights": home / "weights",
        "base/config": home / "model" / "config.json",
        "data/train": home / "rows",
    }
    finetune.run(
        Inputs(paths=paths, digests={"base/weights": "b" * 64}), PARAMS | {"torch_compile": compiled}, clock
    )
    print(json.dumps({"ends": clock.ends, "loss": clock.loss, "peak": peak_rss() >> 20}))


def measure(commands: dict[str, list[str]], rounds: int, threads: int) -> dict[str, Measured]:
    """Run the contestants in turn, each round begun by another."""
    measured = {name: Measured() for name in commands}
    names = list(commands)
    # Threads that spin while they wait make a shared machine many times slower: here all sleep, as dem's workers do.
    theirs = os.environ | {"OMP_NUM_THREADS": str(threads), **SLEEPING, "HF_HUB_OFFLINE": "1"}
    slot = Slot((), threads)
    ours = theirs | slot.environment() | slot.allocation()
    print(f"allocator of dem: {slot.allocation().get('LD_PRELOAD', 'the C library')}", file=sys.stderr)
    run(names[-1], commands[names[-1]], theirs)
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            environment = ours if name.startswith("dem") else theirs
            told, of = run(name, commands[name], environment), measured[name]
            wall, cpu = np.diff(np.array(told["ends"]), axis=0).T
            print(f"  {name}: {wall.round(2)} s, {cpu.round(2)} s of CPU", file=sys.stderr, flush=True)
            of.seconds.extend(wall)
            of.cpu.extend(cpu)
            of.loss, of.peak = told["loss"], max(of.peak, told["peak"])
    return measured


def run(name: str, command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run one contestant once; return what it told."""
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def report(measured: dict[str, Measured], tokens: list[int], rounds: int) -> None:
    """Print tokens/s, CPU time, and both as multiples of dem's; `tokens` are those of each step."""
    ours = measured["dem"]
    print("| | tokens/s | time, of dem's | CPU ms a token | CPU, of dem's | peak memory | last loss |")
    print("|---|---|---|---|---|---|---|")
    counted = np.array(tokens[1:] * rounds)
    for name, of in measured.items():
        seconds, cpu = np.array(of.seconds), np.array(of.cpu)
        print(
            f"| {name} | {spread(list(counted / seconds), 0)} | {spread(list(seconds / ours.seconds))} "
            f"| {spread(list(1000 * cpu / counted), 1)} | {spread(list(cpu / ours.cpu))} "
            f"| {of.peak} MiB | {of.loss:.4f} |"
        )
    print(f"\nload average now: {os.getloadavg()[0]:.1f}\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", help="the python of an environment that has TRL")
    parser.add_argument("--compiled", action="store_true", help="dem with torch_compile as well")
    parser.add_argument(
        "--completion", type=float, nargs="+", default=[1.0, 0.3], help="shares of a row that are trained on"
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prepare, run, print."""
    told = arguments()
    if told.child:
        train(told.child, told.threads, compiled=told.compiled)
        return
    for completion in told.completion:
        print(f"trained on {completion:.0%} of each row:\n", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
            compete(Path(folder), completion, told)


def compete(home: Path, completion: float, told: argparse.Namespace) -> None:
    """Prepare, run and report one share of trained tokens."""
    here = Path(__file__).parent
    write_base(home, told.layers)
    tokens = write_rows(home, told.steps, completion)
    (home / "settings.json").write_text(json.dumps(SETTINGS))
    ours = [sys.executable, __file__, "--child", str(home), "--threads", str(told.threads)]
    commands = {
        "dem": ours,
        **({"dem, compiled": [*ours, "--compiled"]} if told.compiled else {}),
        "bare loop": [sys.executable, str(here / "train_bare.py"), str(home)],
    }
    if told.trl:
        commands["TRL"] = [told.trl, str(here / "train_trl.py"), str(home)]
    report(measure(commands, told.rounds, told.threads), tokens, told.rounds)


if __name__ == "__main__":
    main()
