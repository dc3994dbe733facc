"""What models of 1B and 7B shape take on this machine's GPU, through dem's own steps, in under eight minutes.

python bench/gpu.py [--shape 1b 7b] [--json FILE] [--seconds N] [--only STEP …] [--steps N]
python bench/gpu.py --tiny          the same on any machine, with a model that shows only that the script works

Weights and tokens are random, nothing is downloaded. In this order: the tests of what runs on a GPU; then of each
shape `prepare` (a base and rows on the disk), `train` (all weights), `lora`, `compose` (both vectors), `tune` (a pass
of a search for ω with derivatives, one without) and `evaluate` (the composed model's loss). Each is a process of its
own, with a limit of its own; what fails, takes too long or finds no time left costs its own numbers alone, and what
needs its result is left out. The JSON document is written anew after each of them.

A full fine-tuning keeps float32 master weights and gradients, 8 bytes a parameter: 54 GB at 6.7B. AdamW would need
another 8, so 7B is trained with adafactor, and with gradient checkpointing; bfloat16 copies of the weights, which
autocast makes in each forward pass, come on top. The disk holds the base, the vectors and the composed model: 41 GB.

MFU = FLOPs of a step / (its seconds · the device's peak dense bfloat16 FLOP/s), where

    FLOPs = tokens · (6 · N + 6 · layers · heads · head size · length)

N are the parameters that multiply: all but the embedding, which is a look-up, and with the head, which is not, tied or
not. The second term is attention, of a causal model: half the square. What gradient checkpointing computes again is
not counted. The first step does not count. With LoRA no gradients of weights are computed: no MFU is told of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from contest import peak_rss
from train import PARAMS, Clock
from weights import SMOL, count, write_weights

from dem_build.action import Input
from dem_build.actions.compose import run as compose
from dem_build.actions.finetune import run as finetune
from dem_build.actions.loss import run as loss
from dem_build.actions.tune.candidates import resident
from dem_build.actions.tune.judges import judges
from dem_build.actions.tune.passes import Passes, begin
from dem_build.data.arrays import RowsWriter, trained_prompts
from dem_build.machine import Machine
from dem_build.model.environment import device, peak_memory, reset_peak_memory
from dem_build.step import Context, Group, Inputs, StoredFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}
"""Part of a device's name → dense bfloat16 FLOP/s by its maker; the first that fits counts."""

BASE_DIGEST = "b" * 64


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained."""

    config: dict[str, Any]
    optim: str
    micro_batch: int
    length: int
    gradient_checkpointing: bool


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def _llama(*sizes: int, tied: bool) -> dict[str, Any]:
    named = dict(zip(SIZES, sizes, strict=True))
    return SMOL | named | {"tie_word_embeddings": tied, "max_position_embeddings": 4096}


SHAPES = {
    "tiny": Shape(_llama(64, 128, 2, 4, 2, 512, tied=True), "adafactor", 2, 32, gradient_checkpointing=True),
    "1b": Shape(
        _llama(2048, 8192, 16, 32, 8, 128256, tied=True),
        "adamw_torch_fused",
        8,
        1024,
        gradient_checkpointing=False,
    ),
    "7b": Shape(
        _llama(4096, 11008, 32, 32, 32, 32000, tied=False), "adafactor", 4, 1024, gradient_checkpointing=True
    ),
}
MICRO_BATCHES = 2  # in an optimizer step
JUDGED = 4  # rows that are evaluated
LORA = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}


def flops(config: dict[str, Any], tokens: int, length: int) -> float:
    """Return the FLOPs of a forward and backward pass over `tokens` in sequences of `length`."""
    embedding = config["vocab_size"] * config["hidden_size"]
    multiplied = count(config) - (0 if config["tie_word_embeddings"] else embedding)
    return tokens * (6 * multiplied + 6 * config["num_hidden_layers"] * config["hidden_size"] * length)


def peak_flops(device: str) -> float | None:
    """Return a device's dense bfloat16 FLOP/s; None where the table has none."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device), None)


def write_rows(home: Path, shape: Shape, name: str, rows: int) -> None:
    """Write rows of random tokens, all of which are trained on."""
    rng = np.random.default_rng([rows, len(name)])
    with RowsWriter(home / "spool") as writer:
        for i in range(rows):
            ids = rng.integers(3, shape.config["vocab_size"], shape.length).astype(np.int32)
            writer.append(ids, ids, name.encode().ljust(8) + i.to_bytes(8, "big"))
        writer.save(home / name)


def prepare(home: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """Write a base and rows as dem's store has them."""
    write_weights(home / "weights", shape.config, 0)
    write_rows(home, shape, "train-rows", shape.micro_batch * MICRO_BATCHES * steps)
    write_rows(home, shape, "test-rows", JUDGED)
    (home / "config").write_text(json.dumps(shape.config))
    (home / "generation_config").write_text("{}")
    (home / "tokenizer").mkdir()
    return {"parameters": count(shape.config)}


def base_of(home: Path) -> dict[str, Path]:
    """The base's parts, by tag."""
    return {f"base/{n}": home / n for n in ("weights", "config", "generation_config", "tokenizer")}


def _train(home: Path, shape: Shape, steps: int, name: str, **more: Any) -> dict[str, Any]:
    """Fine-tune; what it took. The vector is `home / name / "out" / "delta"`."""
    (home / name / "out").mkdir(parents=True)
    machine = Machine(
        micro_batch=shape.micro_batch,
        gradient_checkpointing=shape.gradient_checkpointing,
        checkpoint_seconds=1e9,  # a checkpoint is as large as the model and is not what is measured
    )
    batch = shape.micro_batch * MICRO_BATCHES
    params = PARAMS | {"optim": shape.optim, "global_batch_size": batch, "max_steps": steps} | more
    clock = Clock(
        home / name, home / name / "out", machine, threads=torch.get_num_threads(), ends=[], loss=0.0
    )
    paths = base_of(home) | {"data/train": home / "train-rows"}
    told = finetune.run(Inputs(paths=paths, digests={"base/weights": BASE_DIGEST}), params, clock)
    seconds = statistics.median(np.diff([end for end, _ in clock.ends]))
    tokens = batch * shape.length
    return {
        "device": told["device"],
        "optim": params["optim"],
        "micro_batch": told["micro_batch"],
        "length": shape.length,
        "gradient_checkpointing": shape.gradient_checkpointing,
        "steps": steps,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory": told["peak_memory"],
        "loss": clock.loss,
        "versions": told["versions"],
    }


def train(home: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """Fine-tune all weights."""
    told = _train(home, shape, steps, "train")
    peak = peak_flops(told["device"])
    work = flops(shape.config, shape.micro_batch * MICRO_BATCHES * shape.length, shape.length)
    return told | {"mfu": work / told["step_seconds"] / peak if peak else None}


def lora(home: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """Fine-tune adapters of all linear layers."""
    return _train(home, shape, steps, "lora", method="lora", optim="adamw_torch_fused", **LORA)


def vectors_of(home: Path) -> list[Path]:
    """The vectors that were made: one that failed takes no part."""
    made = (home / name / "out" / "delta" for name in ("train", "lora"))
    if not (found := [path for path in made if path.exists()]):
        raise FileNotFoundError("no training made a vector")
    return found


def compose_it(home: Path, _shape: Shape, _steps: int) -> dict[str, Any]:
    """Compose the base and the vectors."""
    (home / "model" / "out").mkdir(parents=True)
    context = Context(home / "model", home / "model" / "out", Machine(), threads=torch.get_num_threads())
    found = vectors_of(home)
    terms = tuple(Input("delta", StoredFile(path, f"{i}" * 64), 0.5) for i, path in enumerate(found))
    inputs = Inputs(base_of(home), {"base/weights": BASE_DIGEST}, terms)
    begun = time.perf_counter()
    compose.run(inputs, {"method": "dem", "dtype": "bfloat16"}, context)
    return {
        "vectors": len(terms),
        "compose_seconds": time.perf_counter() - begun,
        "host_peak_memory": peak_rss(),
    }


def tune_it(home: Path, shape: Shape, _steps: int) -> dict[str, Any]:
    """Take two passes of a search for ω: losses, and losses with their derivatives."""
    (home / "tune" / "out").mkdir(parents=True)
    machine = Machine(micro_batch=1, eval_batch_size=2, gradient_checkpointing=shape.gradient_checkpointing)
    context = Context(home / "tune", home / "tune" / "out", machine, threads=torch.get_num_threads())
    group = Group("d", {}, {"data/validation": home / "test-rows"}, {"data/validation": "d" * 64})
    inputs = Inputs(base_of(home), {"base/weights": BASE_DIGEST, "base/config": "c" * 64})
    log = begin(context)
    deltas = {f"{i}" * 64: path for i, path in enumerate(vectors_of(home))}
    candidates = resident(inputs, deltas, context)
    found = judges({"d": group}, {"d": "data/validation"}, trained_prompts([]), JUDGED)
    passes, told = Passes(candidates, found, "bfloat16", log), {}
    for omega, slopes in ((0.25, False), (0.5, True)):
        begun = time.perf_counter()
        passes.take(np.full((len(deltas), len(candidates.layers)), omega), slopes=slopes)
        told["derivatives_seconds" if slopes else "losses_seconds"] = time.perf_counter() - begun
    return told | {"rows": JUDGED, "length": shape.length, "peak_memory": peak_memory(device())}


def evaluate(home: Path, shape: Shape, _steps: int) -> dict[str, Any]:
    """Take the composed model's loss."""
    (home / "loss" / "out").mkdir(parents=True)
    machine = Machine(eval_batch_size=shape.micro_batch)
    context = Context(home / "loss", home / "loss" / "out", machine, threads=torch.get_num_threads())
    made = home / "model" / "out"
    paths = {
        "model/weights": made / "weights",
        "model/config": made / "config",
        "data/rows": home / "test-rows",
    }
    begun = time.perf_counter()
    loss.run(
        Inputs(paths, {"model/weights": "e" * 64, "model/config": "c" * 64}), {"dtype": "bfloat16"}, context
    )
    seconds = time.perf_counter() - begun
    metrics = json.loads((home / "loss" / "out" / "metrics").read_text())
    return {
        "evaluate_seconds": seconds,  # with loading
        "tokens": metrics["tokens"],
        "loss": metrics["loss"],
        "peak_memory": peak_memory(device()),
    }


@dataclass(frozen=True)
class Step:
    """One thing that is measured.

    Attributes:
        name: What it is called.
        run: What does it, in a process of its own.
        seconds: The longest that it may take.
        needs: Whose results it takes.
    """

    name: str
    run: Callable[[Path, Shape, int], dict[str, Any]]
    seconds: float
    needs: tuple[str, ...] = ()


STEPS = (
    Step("prepare", prepare, 90),
    Step("train", train, 100, ("prepare",)),
    Step("lora", lora, 80, ("prepare",)),
    Step("compose", compose_it, 60, ("prepare",)),
    Step("tune", tune_it, 70, ("prepare",)),
    Step("evaluate", evaluate, 50, ("compose",)),
)
PATIENCE = 4  # times as long for a tiny shape, whose processes import libraries on whatever machine there is
TESTS_SECONDS = 120
TESTS = ("test_finetune.py", "test_loss.py", "test_packing.py", "test_tune.py", "test_validation.py")
"""Of `tests/actions/`: what asks for a device, which is a GPU where there is one."""


def in_process(name: str, home: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """Do a step in this process; what went wrong is told as its result."""
    run = next(step.run for step in STEPS if step.name == name)
    reset_peak_memory(device())
    try:
        return {"status": "done"} | run(home, shape, steps)
    except Exception as error:  # noqa: BLE001  the next step goes on
        traceback.print_exc()
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}


def here(name: str, home: Path, shape: Shape, steps: int, _seconds: float) -> dict[str, Any]:
    """Do a step in this process, without a limit."""
    return in_process(name, home, shape, steps)


def in_child(command: Sequence[str], seconds: float, result: Path | None = None) -> dict[str, Any]:
    """Run a command, and end all of it when its time is over; what it wrote as its result, or how it ended."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"status": "timed out", "error": f"not done after {seconds:.0f} s"}
        if result is not None and result.exists():
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        said.seek(0)
        tail = said.read()[-1000:]
    if process.returncode:
        return {"status": "failed", "error": f"ended with {process.returncode}: {tail}"}
    return {"status": "done", "said": tail.strip().rpartition("\n")[2]}


class Report:
    """What is known so far, which is written after each step."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.found: list[dict[str, Any]] = []
        self._path = path
        self._until = time.monotonic() + seconds

    def step(
        self, shape: str, step: str, most: float, needs: Sequence[str], run: Callable[[float], dict[str, Any]]
    ) -> None:
        """Do a step within its time, and what is left of all; note what came of it."""
        done = {one["step"] for one in self.found if one["shape"] == shape and one["status"] == "done"}
        left = self._until - time.monotonic()
        begun = time.monotonic()
        if missing := [name for name in needs if name not in done]:
            told = {"status": "left out", "error": f"there is no result of {', '.join(missing)}"}
        elif left <= 0:
            told = {"status": "left out", "error": "no time was left"}
        else:
            told = run(min(most, left))
        self.found.append({"shape": shape, "step": step, "seconds": time.monotonic() - begun, **told})
        print(
            f"  {shape} {step}: {told['status']}, {self.found[-1]['seconds']:.1f} s {told.get('error', '')}",
            file=sys.stderr,
            flush=True,
        )
        if self._path is not None:
            partial_file = self._path.with_suffix(".partial")
            partial_file.write_text(json.dumps(self.found, indent=2) + "\n")
            partial_file.replace(self._path)


def table(found: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    rows = ["| shape | step | | seconds | figures |", "|---|---|---|---:|---|"]
    for one in found:
        figures = []
        if "tokens_per_second" in one:
            figures.append(f"{one['optim']}, {one['tokens_per_second']:.0f} tokens/s")
        if one.get("mfu") is not None:
            figures.append(f"MFU {one['mfu']:.1%}")
        figures += [
            f"{name.removesuffix('_seconds')} {one[name]:.1f} s"
            for name in one
            if name.endswith("_seconds") and name != "step_seconds"
        ]
        if "peak_memory" in one:
            figures.append(f"{one['peak_memory'] / 2**30:.1f} GiB")
        figures += [str(one[name]).strip().rpartition("\n")[2] for name in ("error", "said") if name in one]
        rows.append(
            f"| {one['shape']} | {one['step']} | {one['status']} | {one['seconds']:.1f} | {', '.join(figures)} |"
        )
    return "\n".join(rows)


def shape_of(name: str, told: argparse.Namespace) -> Shape:
    """A shape, as the call changes it."""
    changed = {"micro_batch": told.micro_batch, "length": told.length}
    return replace(SHAPES[name], **{n: v for n, v in changed.items() if v})


def child_command(name: str, step: str, home: Path, told: argparse.Namespace) -> list[str]:
    """The command that does a step of a shape."""
    more = [f"--{n}={v}" for n, v in (("micro-batch", told.micro_batch), ("length", told.length)) if v]
    return [
        sys.executable,
        __file__,
        "--shape",
        name,
        f"--steps={told.steps}",
        *more,
        "--step",
        step,
        "--home",
        str(home),
    ]


def measure(name: str, told: argparse.Namespace, report: Report) -> None:
    """Do all steps of one shape."""
    with tempfile.TemporaryDirectory(prefix=f"bench-gpu-{name}-", dir=told.folder) as made:
        home = Path(made)
        for step in STEPS:
            if told.only and step.name not in told.only:
                continue
            command, result = child_command(name, step.name, home, told), home / f"{step.name}.json"
            run = partial(in_child, command, result=result)
            if told.here:
                run = partial(here, step.name, home, shape_of(name, told), told.steps)
            report.step(name, step.name, step.seconds * (PATIENCE if told.tiny else 1), step.needs, run)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["1b", "7b"])
    parser.add_argument("--tiny", action="store_true", help="a shape that runs anywhere, and no tests")
    parser.add_argument("--seconds", type=float, default=460, help="for all of it")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="of: tests, " + ", ".join(s.name for s in STEPS)
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--folder", type=Path, help="where to make the scratch folders")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--here", action="store_true", help="all in this process, without limits")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    told.shape = ["tiny"] if told.tiny else told.shape
    return told


def main() -> None:
    """Measure, print."""
    told = arguments()
    if told.step:
        result = in_process(told.step, told.home, shape_of(told.shape[0], told), told.steps)
        (told.home / f"{told.step}.json").write_text(json.dumps(result))
        return
    if not torch.cuda.is_available() and told.shape != ["tiny"]:
        sys.exit("there is no GPU here: --tiny shows that the script works")
    report = Report(told.json, told.seconds * (PATIENCE if told.tiny else 1))
    if not told.tiny and (not told.only or "tests" in told.only):
        folder = Path(__file__).parents[1] / "tests" / "actions"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *(str(folder / name) for name in TESTS)]
        report.step("", "tests", TESTS_SECONDS, (), partial(in_child, command))
    for name in told.shape:
        measure(name, told, report)
    print(table(report.found))
    print(json.dumps(report.found, indent=2))


if __name__ == "__main__":
    main()
