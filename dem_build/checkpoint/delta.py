"""A distribution vector ΔΘ as a file: a difference for each tensor of the base, and which base it belongs to.

One safetensors file. Its metadata says `{"dem": "delta/1", "base": DIGEST}`, where DIGEST is that of the
base's folder of weights: a vector of another base is refused by this alone, before a tensor is read. A vector of low
rank is another format, of which `factors.py` tells; `open_delta` opens both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.factors import LORA_FORMAT, FactoredDelta
from dem_build.checkpoint.floats import CODES, FLOATS, is_finite, narrow, widen
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON, Digest

__all__ = [
    "DELTA_FORMAT",
    "DeltaNorms",
    "delta_shapes",
    "delta_writer",
    "open_delta",
    "write_delta",
    "write_difference",
]

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

    def provenance(self, dtype: str) -> dict[str, JSON]:
        """What is recorded of a vector that is stored in `dtype`."""
        return {
            "dtype": dtype,
            "elements": self.elements,
            "norm": self.norm,
            "rounding_error": self.rounding_error,
            "rounding_rms": self.rounding_error / max(self.elements, 1) ** 0.5,
        }


def delta_shapes(base: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The names and shapes that a vector of `base` has: those of its float tensors, in file order."""
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
    due = dict(shapes)
    squares = [(0.0, 0.0)]
    with delta_writer(path, base_digest, shapes, dtype) as writer:
        for name, values in tensors:
            if due.pop(name, None) != values.shape:
                expected = f"{shapes[name]}, once" if name in shapes else "no such tensor"
                raise CheckpointError(f"{name} of shape {values.shape} does not fit: the base has {expected}")
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            starts, code = range(0, flat.size, CHUNK), CODES[dtype]
            squares += [_write_chunk(writer, name, s, flat[s : s + CHUNK], code) for s in starts]
            del flat  # a copy where the values do not lie in order: not beside the next tensor
        if due:
            raise CheckpointError(f"the vector lacks {len(due)} of the base's tensors, first {min(due)}")
    return _norms(squares, sum(math.prod(shape) for shape in shapes.values()))


def open_delta(path: Path, base: Checkpoint, base_digest: Digest, name: str) -> Checkpoint:
    """Read a vector's header and check that it belongs to `base`, without reading a tensor.

    However it is stored, what is returned has the base's float tensors: a vector of low rank (`factors.py`) is
    multiplied as it is read.

    Args:
        path: The file.
        base: What it must belong to.
        base_digest: Digest of the base's folder of weights.
        name: What messages call it.

    Raises:
        CheckpointError: No vector, a vector of another base, or names, shapes or formats that differ.
    """
    delta = open_checkpoint(path)
    if (found := delta.metadata.get("dem")) not in (DELTA_FORMAT, LORA_FORMAT):
        raise CheckpointError(f"is no distribution vector: its format is {found!r}", where=name)
    if (made_for := delta.metadata.get("base", "")) != base_digest:
        what = f"was made for the base {made_for[:12]}…, and this base is {base_digest[:12]}…"
        raise CheckpointError(
            what, where=name, hint="train the vector again on this base, or take its own base"
        )
    expected = delta_shapes(base)
    if found == LORA_FORMAT:
        return FactoredDelta(delta, expected, name)
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


def delta_writer(
    path: Path, base_digest: Digest, shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> Writer:
    """A writer of a vector; what it takes is what `write_delta` takes."""
    specs = [TensorSpec(name, CODES[dtype], tuple(shape)) for name, shape in shapes.items()]
    return Writer({path: specs}, {"dem": DELTA_FORMAT, "base": base_digest})


def write_difference(
    writer: Writer,
    base: Checkpoint,
    tuned: Checkpoint,
    dtype: str,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[DeltaNorms, dict[str, float]]:
    """Write the vector of a fine-tuned model, tuned minus base in float32, in chunks: memory is a few of them.

    Args:
        writer: As `delta_writer` returns it for the shapes of `base` and `dtype`, entered.
        base: Θ, open.
        tuned: Θᵢ, open: the base's names and shapes, in any float format and file order. A tensor may have fewer rows
            than the base's: ΔΘ is zero in those that are missing at its end.
        dtype: Stored format: `bfloat16` or `float32`.
        on_progress: Called with the elements done; what it raises stops the work.

    Returns:
        The vector's norms, and ‖ΔΘ‖ / ‖Θ‖ of each tensor.

    Raises:
        CheckpointError: Weights that are not finite; the message names the tensor.
    """
    squares, moved, done = [(0.0, 0.0)], {}, 0
    for name, shape in delta_shapes(base).items():
        of_tensor, lengths = [(0.0, 0.0)], [0.0]
        for start in range(0, math.prod(shape), CHUNK):
            theta, difference = _chunk(base, name, start), _chunk(tuned, name, start)
            lengths.append(float(np.vdot(theta, theta)))
            # Exact where tuned is within a factor of 2 of base (Sterbenz's lemma): base + ΔΘ, in float32, is then tuned
            # again, to the last bit.
            with np.errstate(all="ignore"):  # what is not finite is found when it is stored, and named
                difference -= theta[: difference.size]
            # Rows at the end that the base alone has are as they were.
            if missing := theta.size - difference.size:
                difference = np.pad(difference, (0, missing))
            of_tensor.append(_write_chunk(writer, name, start, difference, CODES[dtype]))
            done += theta.size
            on_progress(done)
        squares += of_tensor
        length = math.fsum(lengths)
        # What was zero has no length to compare with.
        moved[name] = math.sqrt(math.fsum(square for square, _ in of_tensor) / length) if length > 0 else 0.0
    return _norms(squares, done), moved


def _chunk(weights: Checkpoint, name: str, start: int) -> NDArray[np.float32]:
    """Read at most CHUNK elements of a tensor as float32; none beyond its end."""
    tensor = weights.tensors[name]
    return weights.floats(tensor, start, min(CHUNK, max(tensor.size - start, 0)))


def _norms(squares: list[tuple[float, float]], elements: int) -> DeltaNorms:
    # fsum rounds once, at the end: the order in which tensors came reaches no digit.
    norm, error = (math.sqrt(math.fsum(column)) for column in zip(*squares, strict=True))
    return DeltaNorms(norm, error, elements)


def _write_chunk(
    writer: Writer, name: str, start: int, exact: NDArray[np.float32], code: str
) -> tuple[float, float]:
    """Write some elements of a tensor; return their squared norm and squared rounding error."""
    stored = np.empty(exact.size, FLOATS[code])
    narrow(exact, code, stored)
    if not is_finite(stored, code):
        hint = "its training diverged, or a file is damaged: take another checkpoint"
        raise CheckpointError(f"{name} holds values that are not finite", hint=hint)
    writer.write(name, start, stored)
    rounded = np.empty_like(exact)
    widen(stored, code, rounded)
    rounded -= exact
    return float(np.vdot(exact, exact)), float(np.vdot(rounded, rounded))
