"""Holds what `dem plan` says of a training's memory on a CPU against what is resident while it runs.

python bench/planned.py [--only WORD...] [--threads N] [--list]

Each training is a process of its own with a worker's settings: a random Llama, rows of random tokens, `dem`'s own step
from loading the model to writing the vector. Its Rss lines in /proc are read every 50 ms, and the most of their sum is
what is resident: mapped libraries and files count. What is planned is the formula of `dem plan` with its allowance for
Python and the libraries. `--only` takes the trainings whose rows of the table hold all the words. The figures depend
little on the machine's load, as they are of memory, but a training of 135M parameters takes some minutes.
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
from train import PARAMS
from weights import SMOL, count, write_weights

from dem_build.data.arrays import RowsWriter
from dem_build.estimate import Rows, Shape
from dem_build.estimate.due import Training
from dem_build.machine import Machine
from dem_build.slots import Slot

EVERY = 0.05
MEASURED = "resident, MB | of them mapped | planned / resident"
SMALL = SMOL | {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}
MIDDLE = SMOL | {"num_hidden_layers": 6, "vocab_size": 16384}
CONFIGS = {"14M": SMALL, "31M": MIDDLE, "135M": SMOL}


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        model: Of `CONFIGS`.
        lengths: Fewest and most tokens of a row; they are spread evenly.
        share: Of a row's tokens that count, its last ones.
        steps: Optimizer steps.
        params: Beside those of all.
        machine: Beside eight rows in a pass.
        name: What the table calls it.
    """

    model: str
    lengths: tuple[int, int]
    share: float
    steps: int
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What the table says of it."""
        low, high = self.lengths
        rows = f"{high}" if low == high else f"{low} to {high}"
        counted = "all" if self.share == 1 else f"{self.share:.0%}"
        return f"{self.model} | {rows} | {counted} | {self.name} | {self.steps}"


BATCH8, TWO = {"optim": "adamw_8bit"}, {"micro_batch": 4}
ADAFACTOR, FLOAT32, AGAIN = {"optim": "adafactor"}, {"bf16": False}, {"gradient_checkpointing": True}
CASES = [
    Case("14M", (60, 256), 1, 8, "AdamW, one pass"),
    Case("14M", (60, 256), 1, 8, "AdamW, two passes", machine=TWO),
    Case("14M", (60, 256), 0.3, 8, "AdamW, one pass"),
    Case("14M", (60, 256), 1, 8, "AdamW, float32, two passes", FLOAT32, TWO),
    Case("14M", (60, 256), 1, 8, "adafactor, one pass", ADAFACTOR),
    Case("14M", (60, 256), 1, 8, "adamw_8bit, one pass", BATCH8),
    Case("14M", (60, 256), 1, 8, "AdamW, recomputed, one pass", machine=AGAIN),
    Case("14M", (700, 1000), 1, 2, "AdamW, one pass"),
    Case("14M", (700, 1000), 1, 2, "AdamW, two passes", machine=TWO),
    Case("14M", (700, 1000), 0.3, 2, "AdamW, one pass"),
    Case("14M", (700, 1000), 1, 2, "AdamW, recomputed, one pass", machine=AGAIN),
    Case("31M", (60, 300), 0.4, 18, "AdamW, two passes", machine=TWO),
    Case("31M", (60, 300), 0.4, 6, "adamw_8bit, one pass", BATCH8),
    Case("31M", (60, 300), 0.4, 6, "adafactor, two passes", ADAFACTOR, TWO),
    Case("135M", (30, 87), 0.5, 24, "AdamW, one pass"),
    Case("135M", (30, 87), 0.5, 6, "AdamW, two passes", machine=TWO),
    Case("135M", (30, 87), 0.5, 6, "adafactor, one pass", ADAFACTOR),
    Case("135M", (30, 87), 0.5, 6, "adamw_8bit, one pass", BATCH8),
    Case("135M", (100, 386), 0.4, 3, "AdamW, two passes", machine=TWO),
]


def written(case: Case, home: Path) -> Rows:
    """Write a case's base and rows; return what a plan knows of the rows."""
    config = CONFIGS[case.model]
    write_weights(home / "weights", config, 0)
    (home / "weights" / "config.json").replace(home / "config.json")
    rng = np.random.default_rng(0)
    lengths = rng.integers(case.lengths[0], case.lengths[1] + 1, case.steps * PARAMS["global_batch_size"])
    lengths[0] = case.lengths[1]
    trained = 0
    with RowsWriter(home / "spool") as writer:
        for i, length in enumerate(lengths):
            ids = rng.integers(3, config["vocab_size"], length).astype(np.int32)
            labels = ids.copy()
            labels[: round(length * (1 - case.share))] = -100
            trained += int((labels != -100).sum())
            writer.append(ids, labels, i.to_bytes(16, "big"))
        writer.save(home / "rows")
    return Rows(len(lengths), int(lengths.sum()), trained, int(lengths.max()))


def params_of(case: Case) -> dict[str, Any]:
    """Return what the step is told."""
    return PARAMS | {"max_steps": case.steps} | case.params


def planned(case: Case, rows: Rows) -> int:
    """Return the bytes that `dem plan` says."""
    config = CONFIGS[case.model]
    shape = Shape.of(config, count(config))
    assert shape is not None
    training = Training(case.name, params_of(case), case.lengths[1], rows)
    return training.memory(shape, training.params, Machine(**case.machine), training.length, gpu=False)


def train(home: Path, told: dict[str, Any], threads: int) -> None:
    """Run dem's step in this process."""
    # A worker's first action takes what it imports with it; here that is this one.
    from dem_build.actions.finetune import run as finetune  # noqa: PLC0415  torch takes its settings from the child's environment
    from dem_build.step import Context, Inputs  # noqa: PLC0415

    (home / "work" / "out").mkdir(parents=True)
    machine = Machine(**told["machine"])
    context = Context(work=home / "work", out=home / "work" / "out", machine=machine, threads=threads)
    paths = {
        "base/weights": home / "weights",
        "base/config": home / "config.json",
        "data/train": home / "rows",
    }
    finetune.run(Inputs(paths=paths, digests={"base/weights": "b" * 64}), told["params"], context)


def resident(case: Case, home: Path, threads: int) -> tuple[int, int]:
    """Train in a process of its own; return the most bytes that were resident, and those of them that were mapped."""
    told = json.dumps({"params": params_of(case), "machine": case.machine})
    command = [sys.executable, __file__, "--child", str(home), told, "--threads", str(threads)]
    slot = Slot((), threads)
    environment = {**os.environ, **slot.environment(), **slot.allocation(), "HF_HUB_OFFLINE": "1"}
    with (home / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        most = (0, 0)
        while process.poll() is None:
            most = max(most, _resident(process.pid))
            time.sleep(EVERY)
    if process.returncode:
        sys.exit((home / "said").read_text())
    return most


def _resident(pid: int) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return 0, 0
    found = {line.split()[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Rss")}
    return sum(found.values()), found.get("RssFile:", 0)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="words of the trainings that are measured")
    parser.add_argument("--list", action="store_true", help="train nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print."""
    told = arguments()
    if told.child:
        train(Path(told.child[0]), json.loads(told.child[1]), told.threads)
        return
    print(f"| model | tokens of a row | count | training | steps | planned, MB | {MEASURED} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if not all(word in case.words for word in told.only):
            continue
        with tempfile.TemporaryDirectory(prefix="bench-planned-") as folder:
            plan = planned(case, written(case, Path(folder)))
            cells = [f"{plan / 1e6:,.0f}"]
            if not told.list:
                most, mapped = resident(case, Path(folder), told.threads)
                cells += [f"{most / 1e6:,.0f}", f"{mapped / 1e6:,.0f}", f"{plan / most:.2f}"]
        print(f"| {case.words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
