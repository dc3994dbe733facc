"""A distribution vector ΔΘ as a file: a difference for each tensor of the base, and which base it belongs to.

One safetensors file. Its metadata says `{"dem": "delta/1", "base": DIGEST}`, where DIGEST is that of the
base's folder of weights: a vector of another base is refused by this alone, before a tensor is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.floats import CODES, FLOATS, is_finite, narrow, widen
from dem_build.checkpoint.layout import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import Digest

__all__ = ["DELTA_FORMAT", "DeltaNorms", "delta_shapes", "open_delta", "write_delta"]

DELTA_FORMAT = "delta/1"
CHUNK = 1 << 20  # elements


@dataclass(frozen=True)
class DeltaNorms:
    """How long a vector is, and how much of it storing it in its dtype lost.

    Attributes:
        norm: ‖ΔΘ‖, of the float32 values.
        rounding_error: ‖stored - ΔΘ‖.
        elements: Number of elements; `norm / sqrt(elements)` is the root mean square.
    """

    norm: float
    rounding_error: float
    elements: int


def delta_shapes(base: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a vector of `base` has: those of its float tensors, in file order."""
    return {name: tensor.shape for name, tensor in base.tensors.items() if tensor.dtype in FLOATS}


def write_delta(
    path: Path,
    base_digest: Digest,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, NDArray[np.float32]]],
    dtype: str,
) -> DeltaNorms:
    """Write a vector, tensor by tensor, to a new file.

    Args:
        path: The file; it must not exist.
        base_digest: Digest of the base's folder of weights.
        shapes: Name → shape of each tensor: `delta_shapes` of the base.
        tensors: Each tensor once, in any order, in float32.
        dtype: Stored format: `bfloat16` or `float32`.

    Raises:
        CheckpointError: A tensor that is missing, unknown, twice, of another shape or not finite.
    """
    code = CODES[dtype]
    specs = [TensorSpec(name, code, tuple(shape)) for name, shape in shapes.items()]
    due = dict(shapes)
    squares: list[tuple[float, float]] = []
    with Writer({path: specs}, {"dem": DELTA_FORMAT, "base": base_digest}) as writer:
        for name, values in tensors:
            if due.pop(name, None) != values.shape:
                expected = f"{shapes[name]}, once" if name in shapes else "no such tensor"
                raise CheckpointError(f"{name} of shape {values.shape} does not fit: the base has {expected}")
            squares += _write_tensor(writer, name, values, code)
        if due:
            raise CheckpointError(f"the vector lacks {len(due)} of the base's tensors, first {min(due)}")
    norm, error = (math.sqrt(math.fsum(column)) for column in zip(*squares, strict=True))
    return DeltaNorms(norm, error, sum(spec.size for spec in specs))


def open_delta(path: Path, base: Checkpoint, base_digest: Digest, name: str) -> Checkpoint:
    """Read a vector's header and check that it belongs to `base`, without reading a tensor.

    Args:
        path: The file.
        base: What it must belong to.
        base_digest: Digest of the base's folder of weights.
        name: What messages call it.

    Raises:
        CheckpointError: No vector, a vector of another base, or names, shapes or formats that differ.
    """
    delta = open_checkpoint(path)
    if (found := delta.metadata.get("dem")) != DELTA_FORMAT:
        raise CheckpointError(f"is no distribution vector: its format is {found!r}", where=name)
    if (made_for := delta.metadata.get("base", "")) != base_digest:
        what = f"was made for the base {made_for[:12]}…, and this base is {base_digest[:12]}…"
        raise CheckpointError(
            what, where=name, hint="train the vector again on this base, or take its own base"
        )
    expected = delta_shapes(base)
    if differing := sorted(expected.keys() ^ delta.tensors.keys()):
        whose = "the base" if differing[0] in expected else "the vector"
        what = (
            f"{len(differing)} tensors are not in both base and vector, first {differing[0]}, only in {whose}"
        )
        raise CheckpointError(what, where=name)
    for key, tensor in delta.tensors.items():
        if tensor.shape != expected[key] or tensor.dtype not in FLOATS:
            what = f"{key} is {tensor.dtype} {tensor.shape}, and the base's is {expected[key]}"
            raise CheckpointError(what, where=name)
    return delta


def _write_tensor(
    writer: Writer, name: str, values: NDArray[np.float32], code: str
) -> list[tuple[float, float]]:
    """Write one tensor in chunks; return each chunk's squared norm and squared rounding error."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    squares = [(0.0, 0.0)]
    for start in range(0, flat.size, CHUNK):
        exact = flat[start : start + CHUNK]
        stored = np.empty(exact.size, FLOATS[code])
        narrow(exact, code, stored)
        if not is_finite(stored, code):
            raise CheckpointError(f"{name} holds values that are not finite")
        writer.write(name, start, stored)
        rounded = np.empty_like(exact)
        widen(stored, code, rounded)
        rounded -= exact
        squares.append((float(np.vdot(exact, exact)), float(np.vdot(rounded, rounded))))
    return squares
