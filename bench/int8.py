"""What storing a vector in int8, or in bfloat16, takes from what it gains on its own test rows.

    python bench/int8.py BASE VECTOR ROWS [--rows 16] [--dtype float32] [--arithmetic DTYPE]

BASE is a base as dem prepares it (`weights/` and `config`), VECTOR one of its vectors in float32 or bfloat16, ROWS a
prepared split: all three are objects of a cache. Each model is Θ + ΔΘ, composed, published in `--dtype`, loaded and
evaluated as dem does: in float32 rounding the model hides nothing, in bfloat16 it is what a build makes. With
`--arithmetic float32` what was published in bfloat16 is evaluated without rounding on the way. Losses are paired by
row. torch takes OMP_NUM_THREADS threads.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from dem_build.actions.compose.methods import METHODS
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import Delta, delta_shapes, open_delta, write_delta
from dem_build.checkpoint.reader import Checkpoint, open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.data.arrays import TokenRows
from dem_build.model.likelihood import row_nll
from dem_build.model.load import load_model

BATCH = 8
CODES = {"float32": "F32", "bfloat16": "BF16"}


def losses(weights: Path, config: Path, rows: TokenRows, most: int, dtype: str) -> np.ndarray:
    """Summed loss and tokens of each row, [rows, 2]."""
    model = load_model(weights, config, dtype=getattr(torch, dtype), device=torch.device("cpu"))
    found: list[tuple[float, int]] = []
    with torch.inference_mode():
        for start in range(0, min(most, len(rows)), BATCH):
            nll, counts = row_nll(model, [rows[i] for i in range(start, min(start + BATCH, most, len(rows)))])
            found += zip(nll.double().tolist(), counts, strict=True)
    return np.array(found)


def compose(base: Checkpoint, delta: Delta, folder: Path, dtype: str) -> Path:
    """Write Θ + ΔΘ in a type."""
    code = CODES[dtype]
    with base, delta, weights_writer(folder, result_specs(base, code)) as writer:
        combine(Combination(base, [delta], [1.0], METHODS["dem"], code), writer)
    return folder


def changed(one: Path, other: Path) -> float:
    """The share of elements in which two models differ."""
    with open_checkpoint(one) as mine, open_checkpoint(other) as theirs:
        counts = [(np.count_nonzero(mine.read(n) != theirs.read(n)), t.size) for n, t in mine.tensors.items()]
    return sum(n for n, _ in counts) / sum(size for _, size in counts)


def main() -> None:
    """Print a line for each format that the vector is not stored in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("vector", type=Path)
    parser.add_argument("rows_of", type=Path, metavar="rows")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--dtype", choices=CODES, default="float32")
    parser.add_argument("--arithmetic", choices=CODES, help="of passes, where it is not `--dtype`")
    call = parser.parse_args()
    arithmetic = call.arithmetic or call.dtype
    config, rows = call.base / "config", TokenRows.open(call.rows_of)
    base, digest = open_checkpoint(call.base / "weights"), open_checkpoint(call.vector).metadata["base"]
    source, shapes = open_delta(call.vector, base, digest, "vector"), delta_shapes(base)
    stored = {t.dtype for t in source.tensors.values()}
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)

        def judged(weights: Path) -> np.ndarray:
            return losses(weights, config, rows, call.rows, arithmetic)

        model = compose(base, source, home / "source", call.dtype)
        before, own = judged(call.base / "weights"), judged(model)
        tokens = before[:, 1].sum()
        gain, loss = (before - own)[:, 0].sum() / tokens, before[:, 0].sum() / tokens
        print(
            f"{len(before)} rows, {tokens:.0f} tokens: the base's loss {loss:.5f}, with the vector in "
            f"{'/'.join(sorted(stored))} {loss - gain:.6f}, models in {call.dtype}, passes in {arithmetic}",
            flush=True,
        )
        for dtype in ("int8", "bfloat16") if stored == {"F32"} else ("int8",):
            path = home / f"delta.{dtype}"
            with source:
                tensors = ((name, source.read(name)) for name in shapes)
                norms = write_delta(path, digest, shapes, tensors, dtype)
            made_of = compose(base, open_delta(path, base, digest, dtype), home / dtype, call.dtype)
            lost = (judged(made_of) - own)[:, 0]
            error = lost.std(ddof=1) * math.sqrt(len(lost))
            print(
                f"{dtype}: {path.stat().st_size / norms.elements:.4f} bytes a parameter, relative error "
                f"{norms.rounding_error / norms.norm:.5f}, {changed(model, made_of):.2%} of the model's elements are "
                f"others, {lost.sum() / tokens / gain:+.4%} of the gain lost (± {error / tokens / gain:.4%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
