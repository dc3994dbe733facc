"""Measures the peak memory and the disk of each action at 135M parameters, and says what follows for 7B.

python bench/memory.py

A random base of SmolLM2-135M's shape and one dataset of short rows, built action by action, each by a `dem` of its own:
the memory is the sum over its two processes, sampled in /proc. The estimates are `dem plan`'s own formula, which
counts weights, gradients, optimizer, activations and logits, and no allocator, kernel or library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import Memory
from weights import SMOL, count, project

from dem_build.estimate import Shape, training_disk, training_memory
from dem_build.machine import Machine
from dem_build.session.session import Call, open_session

SEVEN = SMOL | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
MIB, GB = 2**20, 1e9
LENGTH, MICRO_BATCH = 1024, 4


def build(recipe: Path, action: str) -> Memory:
    """Build one action; return its memory."""
    command = [sys.executable, "-m", "dem_build", "build", str(recipe), "--", action]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    memory = Memory(process)
    told = process.communicate()[0]
    memory.join()
    if process.returncode:
        sys.exit(told)
    return memory


def measured(home: Path) -> None:
    """Build a recipe action by action, and print what each took."""
    recipe = project(home, SMOL, [0.5])
    recipe.write_text(recipe.read_text() + "test = 0.3\n[evaluate]\n")
    print("| action | memory, MiB | with mapped files, MiB | its outputs, MiB | bytes a parameter |")
    print("|---|---|---|---|---|")
    parameters = count(SMOL)
    for action in ("base", "data:d0", "vector:d0", "model", "loss:composed:d0"):
        memory = build(recipe, action)
        verdict = open_session(str(recipe), Call(targets=[action])).plan.verdicts[action]
        assert verdict.record is not None
        size = sum(output.size for output in verdict.record.outputs.values())
        print(
            f"| `{action}` | {memory.peak / MIB:.0f} | {memory.resident / MIB:.0f} | {size / MIB:.1f} "
            f"| {size / parameters:.3f} |",
            flush=True,
        )


def estimated() -> None:
    """Print the formula's figures for 135M and 7B."""
    print(
        "\n| training | 135M, GB | 7B, GB | 7B with gradient checkpointing, GB | its checkpoints on disk, 7B, GB |"
    )
    print("|---|---|---|---|---|")
    for optim in ("adamw_torch_fused", "adamw_8bit", "adafactor"):
        params = {"optim": optim, "bf16": True, "global_batch_size": 32, "vector_dtype": "bfloat16"}
        cells = []
        for config, checkpointing in ((SMOL, False), (SEVEN, False), (SEVEN, True)):
            shape = Shape.of(config, count(config))
            assert shape is not None
            machine = Machine(micro_batch=MICRO_BATCH, gradient_checkpointing=checkpointing)
            cells.append(training_memory(shape, params, machine, LENGTH) / GB)
        scratch = training_disk(shape, params)[1] / GB
        print(f"| {optim} | {cells[0]:.1f} | {cells[1]:.1f} | {cells[2]:.1f} | {scratch:.0f} |")
    print(
        f"\n{MICRO_BATCH} sequences of {LENGTH} tokens, all of which count, in a forward and backward pass; bf16."
    )


def main() -> None:
    """Measure, print."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        os.environ["DEM_HINTS"] = str(Path(folder) / "hints")
        measured(Path(folder))
    estimated()


if __name__ == "__main__":
    main()
