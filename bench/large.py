"""What models of 3B, 7B and 13B take by `dem`'s own formula, and what a search for ω holds, measured on 0.3B.

python bench/large.py            tables of memory and disk; nothing runs
python bench/large.py --search   a search for ω on a random model of 302M parameters, in a process of its own

Of several GPUs it is what each of the ranks takes, as a plan has it. Nothing of that was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from weights import SMOL, count, delta_tensors, shapes, write_weights

from dem_build.checkpoint.delta import write_delta
from dem_build.data.arrays import RowsWriter
from dem_build.estimate import Shape, rank_memory, training_disk, training_memory
from dem_build.estimate.memory import CHECKPOINTS, search_memory
from dem_build.machine import Machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from large_shapes import LLAMAS

PARAMS = {
    "optim": "adamw_torch_fused",
    "bf16": True,
    "global_batch_size": 32,
    "vector_dtype": "bfloat16",
    "packing": False,
}
SHARED = "adamw_torch_fused"
OPTIMS = ("adamw_torch_fused", "adamw_8bit", "adafactor")
LENGTH, ROWS = 1024, 4
GPUS = (1, 2, 4, 8)
SEARCHED = SMOL | {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
VECTORS = 4
EVERY = 0.05


def rank(shape: Shape, optim: str, machine: Machine, gpus: int) -> str:
    """The gigabytes of each GPU; none where several do not train it."""
    params = PARAMS | {"optim": optim}
    if gpus == 1:
        return f"{training_memory(shape, params, machine, LENGTH) / 1e9:.1f}"
    if optim != SHARED:
        return "refused"
    return f"{rank_memory(shape, params, machine, LENGTH, None, ranks=gpus) / 1e9:.1f}"


def tables() -> None:
    """Print memory by model, optimizer and number of GPUs, and what lies on disk."""
    print(f"| GB a GPU | recomputed | {' | '.join(f'{n} GPU' for n in GPUS)} | checkpoint | vector |")
    print(f"|---|---|{'---:|' * (len(GPUS) + 2)}")
    for name, config in LLAMAS.items():
        shape = Shape.of(config)
        assert shape is not None
        for optim in OPTIMS:
            vector, scratch = training_disk(shape, PARAMS | {"optim": optim})
            for again in (False, True):
                machine = Machine(micro_batch=ROWS, gradient_checkpointing=again)
                cells = [rank(shape, optim, machine, gpus) for gpus in GPUS]
                cells += [f"{scratch / CHECKPOINTS / 1e9:.0f}", f"{vector / 1e9:.1f}"]
                print(f"| {name}, {optim} | {'yes' if again else 'no'} | {' | '.join(cells)} |")
    print()
    print("| search for ω, GB | model and gradients | base and 4 vectors, as they are stored |")
    print("|---|---:|---:|")
    for name, config in LLAMAS.items():
        shape = Shape.of(config)
        assert shape is not None
        held = search_memory(shape, Machine(micro_batch=1, eval_batch_size=1), LENGTH, 128, slopes=True)
        print(f"| {name} | {held / 1e9:.1f} | {2 * shape.parameters * (1 + VECTORS) / 1e9:.1f} |")


def written(home: Path) -> list[Path]:
    """Write a random base, its vectors and a few rows of each; return the vectors' files."""
    write_weights(home / "weights", SEARCHED, 0)
    (home / "weights" / "config.json").replace(home / "config.json")
    rng = np.random.default_rng(0)
    made = []
    for i in range(VECTORS):
        for split in ("train", "validation"):
            with RowsWriter(home / f"spool{i}{split}") as writer:
                for row in range(4):
                    ids = rng.integers(3, 1000, 32).astype(np.int32)
                    writer.append(ids, ids, bytes([i, row, len(split)]) * 6)
                writer.save(home / f"{split}{i}")
        made.append(home / f"delta{i}")
        write_delta(made[-1], "b" * 64, shapes(SEARCHED), delta_tensors(shapes(SEARCHED), i + 1), "bfloat16")
    return made


def search(home: Path) -> None:
    """Run dem's step in this process."""
    from dem_build.actions.tune import run as tune  # noqa: PLC0415  torch takes its settings from the child's environment
    from dem_build.step import Context, Group, Inputs  # noqa: PLC0415

    tags = {"delta": "delta", "data/validation": "validation", "data/train": "train"}
    groups = tuple(
        Group(
            f"d{i}",
            {"importance": 1.0, "omega": None},
            {tag: home / f"{file}{i}" for tag, file in tags.items()},
            {tag: f"{i}{len(file):x}" * 32 for tag, file in tags.items()},
        )
        for i in range(VECTORS)
    )
    paths = {"base/weights": home / "weights", "base/config": home / "config.json"}
    digests = {"base/weights": "b" * 64, "base/config": "c" * 64}
    params = {"search": "gradient", "objective": "mean", "granularity": "model", "max_samples": 4}
    (home / "work" / "out").mkdir(parents=True)
    machine = Machine(micro_batch=1, eval_batch_size=4)
    context = Context(work=home / "work", out=home / "work" / "out", machine=machine, threads=2)
    more: dict[str, Any] = {"bounds": [0.0, 1.5], "dtype": "bfloat16"}
    tune.run(Inputs(paths, digests, groups=groups), params | more, context)


def measured(most: float) -> None:
    """Print what the search held at its most, as multiples of the model in bfloat16."""
    with tempfile.TemporaryDirectory(prefix="bench-large-") as name:
        home = Path(name)
        written(home)
        begun = time.monotonic()
        said = (home / "said").open("w")
        process = subprocess.Popen([sys.executable, __file__, "--child", str(home)], stdout=said, stderr=said)
        anonymous = mapped = 0
        while process.poll() is None and time.monotonic() - begun < most:
            lines = [line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()]
            found = {line[0]: int(line[1]) << 10 for line in lines if line and line[0].startswith("Rss")}
            anonymous = max(anonymous, found.get("RssAnon:", 0))
            mapped = max(mapped, found.get("RssFile:", 0))
            time.sleep(EVERY)
        ended = process.poll()
        process.kill()
        if ended not in (0, None):
            sys.exit((home / "said").read_text())
        size = 2 * count(SEARCHED)
        print(json.dumps({"parameters": size // 2, "vectors": VECTORS, "ended": ended == 0}))
        for what, held in (("anonymous", anonymous), ("mapped files", mapped)):
            print(f"{what}: {held / 1e6:,.0f} MB, {held / size:.2f} times the model in bfloat16")


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--most", type=float, default=600.0, help="seconds, after which a search is ended")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        os.environ["HF_HUB_OFFLINE"] = "1"
        search(told.child)
    elif told.search:
        measured(told.most)
    else:
        tables()


if __name__ == "__main__":
    main()
