"""Fine-tunes random models of 1B and 7B shape on this machine's device through dem's own steps, and composes them.

python bench/gpu.py [--shape 1b 7b] [--steps N] [--micro-batch N] [--length N] [--json FILE]

Prints tokens/s, MFU and peak memory as a table, and as JSON. Nothing is downloaded: weights and tokens are random.
`--shape tiny` runs anywhere, and shows only that the script works.

A full fine-tuning keeps float32 master weights and gradients, 8 bytes a parameter: 54 GB at 6.7B. AdamW would need
another 8, so 7B is trained with adafactor, and with gradient checkpointing; bfloat16 copies of the weights, which
autocast makes in each forward pass, come on top. The disk holds the base, a vector and the composed model: 40 GB.

MFU = FLOPs of a step / (its seconds · the device's peak dense bfloat16 FLOP/s), where

    FLOPs = tokens · (6 · N + 6 · layers · heads · head size · length)

N are the parameters that multiply: all but the embedding, which is a look-up, and with the head, which is not, tied or
not. The second term is attention, of a causal model: half the square. What gradient checkpointing computes again is
not counted. The first step does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import peak_rss
from train import PARAMS, Clock
from weights import SMOL, count, write_weights

from dem_build.action import Input
from dem_build.actions.compose import run as compose
from dem_build.actions.finetune import run as finetune
from dem_build.data.arrays import RowsWriter
from dem_build.errors import DemError
from dem_build.machine import Machine
from dem_build.step import Context, Inputs, StoredFile

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


def flops(config: dict[str, Any], tokens: int, length: int) -> float:
    """Return the FLOPs of a forward and backward pass over `tokens` in sequences of `length`."""
    embedding = config["vocab_size"] * config["hidden_size"]
    multiplied = count(config) - (0 if config["tie_word_embeddings"] else embedding)
    return tokens * (6 * multiplied + 6 * config["num_hidden_layers"] * config["hidden_size"] * length)


def peak_flops(device: str) -> float | None:
    """Return a device's dense bfloat16 FLOP/s; None where the table has none."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device), None)


def write_rows(home: Path, shape: Shape, rows: int) -> None:
    """Write rows of random tokens, all of which are trained on."""
    rng = np.random.default_rng(0)
    with RowsWriter(home / "spool") as writer:
        for i in range(rows):
            ids = rng.integers(3, shape.config["vocab_size"], shape.length).astype(np.int32)
            writer.append(ids, ids, i.to_bytes(16, "big"))
        writer.save(home / "rows")


def prepare(home: Path, shape: Shape, steps: int) -> dict[str, Path]:
    """Write a base and rows as dem's store has them; return the paths of a step's inputs."""
    write_weights(home / "weights", shape.config, 0)
    write_rows(home, shape, shape.micro_batch * MICRO_BATCHES * steps)
    (home / "config").write_text(json.dumps(shape.config))
    (home / "generation_config").write_text("{}")
    (home / "tokenizer").mkdir()
    names = ("weights", "config", "generation_config", "tokenizer")
    return {f"base/{name}": home / name for name in names} | {"data/train": home / "rows"}


def train(home: Path, shape: Shape, paths: dict[str, Path], steps: int) -> dict[str, Any]:
    """Fine-tune; return what it took. The vector is `home / "train" / "out" / "delta"`."""
    (home / "train" / "out").mkdir(parents=True)
    machine = Machine(
        micro_batch=shape.micro_batch,
        gradient_checkpointing=shape.gradient_checkpointing,
        checkpoint_seconds=1e9,  # a checkpoint is as large as the model and is not what is measured
    )
    batch = shape.micro_batch * MICRO_BATCHES
    params = PARAMS | {"optim": shape.optim, "global_batch_size": batch, "max_steps": steps}
    clock = Clock(
        home / "train", home / "train" / "out", machine, threads=torch.get_num_threads(), ends=[], loss=0.0
    )
    told = finetune.run(Inputs(paths=paths, digests={"base/weights": BASE_DIGEST}), params, clock)
    seconds = statistics.median(np.diff([end for end, _ in clock.ends]))
    tokens = batch * shape.length
    peak = peak_flops(told["device"])
    return {
        "device": told["device"],
        "parameters": count(shape.config),
        "optim": shape.optim,
        "micro_batch": told["micro_batch"],
        "length": shape.length,
        "gradient_checkpointing": shape.gradient_checkpointing,
        "steps": steps,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": flops(shape.config, tokens, shape.length) / seconds / peak if peak else None,
        "peak_memory": told["peak_memory"],
        "loss": clock.loss,
        "versions": told["versions"],
    }


def compose_it(home: Path, paths: dict[str, Path]) -> dict[str, Any]:
    """Compose the base and the vector; return what it took."""
    (home / "model" / "out").mkdir(parents=True)
    context = Context(home / "model", home / "model" / "out", Machine(), threads=torch.get_num_threads())
    term = Input("delta", StoredFile(home / "train" / "out" / "delta", "d" * 64), 0.5)
    begun = time.perf_counter()
    compose.run(
        Inputs(paths, {"base/weights": BASE_DIGEST}, (term,)), {"method": "dem", "dtype": "bfloat16"}, context
    )
    return {"compose_seconds": time.perf_counter() - begun, "host_peak_memory": peak_rss()}


def measure(name: str, shape: Shape, steps: int, folder: Path | None) -> dict[str, Any]:
    """Do one shape; a training that cannot be done is said, and the next shape goes on."""
    with tempfile.TemporaryDirectory(prefix=f"bench-gpu-{name}-", dir=folder) as made:
        home = Path(made)
        paths = prepare(home, shape, steps)
        try:
            told = train(home, shape, paths, steps)
        except DemError as error:
            return {"shape": name, "error": error.located}
        return {"shape": name} | told | compose_it(home, paths)


def table(found: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    rows = [
        "| shape | parameters | optimizer | tokens/s | MFU | peak memory | composed in |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        if "error" in one:
            rows.append(f"| {one['shape']} | failed: {one['error']} | | | | | |")
            continue
        mfu = "unknown" if one["mfu"] is None else f"{one['mfu']:.1%}"
        rows.append(
            f"| {one['shape']} | {one['parameters'] / 1e9:.2f}B | {one['optim']} | {one['tokens_per_second']:.0f} "
            f"| {mfu} | {one['peak_memory'] / 2**30:.1f} GiB | {one['compose_seconds']:.1f} s |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["1b", "7b"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--folder", type=Path, help="where to make the scratch folder")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    told = parser.parse_args()
    if not torch.cuda.is_available() and told.shape != ["tiny"]:
        sys.exit("there is no GPU here: --shape tiny shows that the script works")
    changed = {"micro_batch": told.micro_batch, "length": told.length}
    found = []
    for name in told.shape:
        shape = replace(SHAPES[name], **{n: v for n, v in changed.items() if v})
        found.append(measure(name, shape, told.steps, told.folder))
    print(table(found))
    text = json.dumps(found, indent=2)
    print(text)
    if told.json:
        told.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
