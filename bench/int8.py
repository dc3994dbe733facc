"""What storing a vector in int8, or in bfloat16, takes from what it gains on its own test rows.

    python bench/int8.py BASE VECTOR ROWS [--rows 16]

BASE is a base as dem prepares it (`weights/` and `config`), VECTOR one of its vectors in float32, ROWS a prepared
split: all three are objects of a cache. Each model is Θ + ΔΘ in float32, composed and loaded as dem does; losses are
paired by row. torch takes OMP_NUM_THREADS threads.
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


def losses(weights: Path, config: Path, rows: TokenRows, most: int) -> np.ndarray:
    """Summed loss and tokens of each row, [rows, 2]."""
    model = load_model(weights, config, dtype=torch.float32, device=torch.device("cpu"))
    found: list[tuple[float, int]] = []
    with torch.inference_mode():
        for start in range(0, min(most, len(rows)), BATCH):
            nll, counts = row_nll(model, [rows[i] for i in range(start, min(start + BATCH, most, len(rows)))])
            found += zip(nll.double().tolist(), counts, strict=True)
    return np.array(found)


def compose(base: Checkpoint, delta: Delta, folder: Path) -> Path:
    """Write Θ + ΔΘ in float32."""
    with base, delta, weights_writer(folder, result_specs(base, "F32")) as writer:
        combine(Combination(base, [delta], [1.0], METHODS["dem"], "F32"), writer)
    return folder


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("vector", type=Path)
    parser.add_argument("rows_of", type=Path, metavar="rows")
    parser.add_argument("--rows", type=int, default=16)
    call = parser.parse_args()
    config, rows = call.base / "config", TokenRows.open(call.rows_of)
    base, digest = open_checkpoint(call.base / "weights"), open_checkpoint(call.vector).metadata["base"]
    source, shapes = open_delta(call.vector, base, digest, "vector"), delta_shapes(base)
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        before = losses(call.base / "weights", config, rows, call.rows)
        own = losses(compose(base, source, home / "float32"), config, rows, call.rows)
        tokens = before[:, 1].sum()
        gain = (before - own)[:, 0].sum() / tokens
        loss = before[:, 0].sum() / tokens
        print(
            f"{len(before)} rows, {tokens:.0f} tokens: the base's loss {loss:.5f}, gain {gain:.5f}",
            flush=True,
        )
        for dtype in ("int8", "bfloat16"):
            path = home / f"delta.{dtype}"
            with source:
                norms = write_delta(
                    path, digest, shapes, ((name, source.read(name)) for name in shapes), dtype
                )
            delta = open_delta(path, base, digest, dtype)
            lost = (losses(compose(base, delta, home / dtype), config, rows, call.rows) - own)[:, 0]
            error = lost.std(ddof=1) * math.sqrt(len(lost))
            print(
                f"{dtype}: {path.stat().st_size / norms.elements:.4f} bytes a parameter, relative error "
                f"{norms.rounding_error / norms.norm:.5f}, {lost.sum() / tokens / gain:+.4%} of the gain lost "
                f"(± {error / tokens / gain:.4%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
