"""A distribution vector ΔΘ as a file: a difference for each tensor of the base, and which base it belongs to.

One safetensors file. Its metadata says `{"dem": "delta/1", "base": DIGEST}`, where DIGEST is that of the
base's folder of weights: a vector of another base is refused by this alone, before a tensor is read.

A vector stored in int8 is a `delta/2`: its matrices are I8, with bfloat16 scales in a tensor beside each, `NAME_scale`
(blocks.py), and all else is bfloat16. Its metadata also say how many elements a block has, `"block": "64"`. One of low
rank is a `lora/1`, whose factors are multiplied as they are read (factors.py). `open_delta` opens them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.blocks import (
    BLOCK,
    SCALE,
    blocks_in,
    dequantise,
    dequantise_planes,
    quantise,
    run_of,
    scales_shape,
)
from dem_build.checkpoint.factors import LORA_FORMAT, FactoredDelta
from dem_build.checkpoint.floats import CODES, FLOATS, is_finite, narrow, squared_sum, widen
from dem_build.checkpoint.header import TensorInfo, TensorSpec
from dem_build.checkpoint.reader import Checkpoint, open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.blocks import Run
    from dem_build.digest import JSON, Digest

DELTA_FORMAT = "delta/1"
QUANTISED = "delta/2"
INTEGER = "I8"
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
            "relative_rounding_error": self.rounding_error / self.norm if self.norm else None,
        }


class Delta(Checkpoint):
    """A vector, open for reading: its values come as float32, whatever they are stored in.

    Attributes:
        scales: Name of a tensor that is stored in blocks of int8 → the tensor of its scales.
    """

    def __init__(self, file: Checkpoint) -> None:
        integers = [name for name, tensor in file.tensors.items() if tensor.dtype == INTEGER]
        self.scales = {n: file.tensors[n + SCALE] for n in integers if n + SCALE in file.tensors}
        beside = {tensor.name for tensor in self.scales.values()}
        super().__init__({n: t for n, t in file.tensors.items() if n not in beside}, file.metadata)

    def has_floats(self, tensor: TensorSpec) -> bool:
        """As of a checkpoint; blocks of int8 stand for floats."""
        return tensor.name in self.scales or super().has_floats(tensor)

    def floats(self, tensor: TensorInfo, start: int, size: int) -> NDArray[np.float32]:
        """As of a checkpoint; of blocks of int8, exactly what they stand for."""
        if tensor.name not in self.scales:
            return super().floats(tensor, start, size)
        stored = np.empty(size, np.int8)
        self.read_into(tensor, start, stored)
        run = run_of(tensor.shape, start, size)
        return dequantise(run, stored, self._scales_of(tensor, run))

    def planes_into(
        self, tensor: TensorInfo, start: int, size: int, stored: NDArray[np.generic], out: NDArray[np.float32]
    ) -> None:
        """As of a checkpoint; of blocks of int8, exactly what they stand for."""
        if tensor.name not in self.scales:
            super().planes_into(tensor, start, size, stored, out)
            return
        self.read_into(tensor, start, stored[:size])
        run = run_of(tensor.shape, start, size)
        dequantise_planes(run, stored[:size].view(np.int8), self._scales_of(tensor, run), out)

    def _scales_of(self, tensor: TensorInfo, run: Run) -> NDArray[np.uint16]:
        scales = np.empty(run.scales, np.uint16)
        self.read_into(self.scales[tensor.name], run.first, scales)
        return scales


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
        dtype: Stored format: `bfloat16`, `float32` or `int8`.

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
            flat, piece = np.ascontiguousarray(values, dtype=np.float32).reshape(-1), writer.piece(name)
            squares += [writer.write_floats(name, s, flat[s : s + piece]) for s in range(0, flat.size, piece)]
            del flat  # a copy where the values do not lie in order: not beside the next tensor
        if due:
            raise CheckpointError(f"the vector lacks {len(due)} of the base's tensors, first {min(due)}")
    return _norms(squares, sum(math.prod(shape) for shape in shapes.values()))


def open_delta(path: Path, base: Checkpoint, base_digest: Digest, name: str) -> Checkpoint:
    """Read a vector's header and check that it belongs to `base`, without reading a tensor.

    However it is stored, what is returned has the base's float tensors, and gives their values as float32.

    Args:
        path: The file.
        base: What it must belong to.
        base_digest: Digest of the base's folder of weights.
        name: What messages call it.

    Raises:
        CheckpointError: No vector, a vector of another base, or names, shapes or formats that differ.
    """
    opened = open_checkpoint(path)
    if (found := opened.metadata.get("dem")) not in (DELTA_FORMAT, QUANTISED, LORA_FORMAT):
        raise CheckpointError(f"is no distribution vector: its format is {found!r}", where=name)
    if (made_for := opened.metadata.get("base", "")) != base_digest:
        what = f"was made for the base {made_for[:12]}…, and this base is {base_digest[:12]}…"
        raise CheckpointError(
            what, where=name, hint="train the vector again on this base, or take its own base"
        )
    if found == QUANTISED and (block := opened.metadata.get("block")) != str(BLOCK):
        raise CheckpointError(f"has blocks of {block} elements, and dem reads those of {BLOCK}", where=name)
    expected = delta_shapes(base)
    if found == LORA_FORMAT:
        return FactoredDelta(opened, expected, name)
    delta = Delta(opened)
    if differing := sorted(expected.keys() ^ delta.tensors.keys()):
        whose = "the base" if differing[0] in expected else "the vector"
        what = (
            f"{len(differing)} tensors are not in both base and vector, first {differing[0]}, only in {whose}"
        )
        raise CheckpointError(what, where=name)
    for key, tensor in delta.tensors.items():
        if tensor.shape != expected[key] or (tensor.dtype not in FLOATS and found != QUANTISED):
            what = f"{key} is {tensor.dtype} {tensor.shape}, and the base's is {expected[key]}"
            raise CheckpointError(what, where=name)
        if tensor.dtype not in FLOATS:
            _check_scales(tensor, delta.scales.get(key), name)
    return delta


def _check_scales(tensor: TensorSpec, scales: TensorSpec | None, name: str) -> None:
    """Refuse a tensor that is neither floats nor blocks of int8 with their scales."""
    if scales is None or not blocks_in(tensor.shape):
        what = f"{tensor.name} is {tensor.dtype} {tensor.shape}, without scales that say what its values are"
        raise CheckpointError(what, where=name)
    if (scales.dtype, scales.shape) != ("BF16", scales_shape(tensor.shape)):
        what = (
            f"{scales.name} is {scales.dtype} {scales.shape}, and should be BF16 {scales_shape(tensor.shape)}"
        )
        raise CheckpointError(what, where=name)


class DeltaWriter(Writer):
    """Writes a vector to a new file from float32 values, in pieces that come in any order.

    Its `specs` are all tensors of the file, the scales of those that are stored in blocks of int8 among them.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str], specs: Mapping[str, TensorSpec]) -> None:
        super().__init__({path: specs.values()}, metadata)
        self._tensors = specs

    def piece(self, name: str) -> int:
        """How many elements of a tensor are written at a time: of blocks, whole rows."""
        tensor = self._tensors[name]
        row = tensor.shape[-1] if tensor.dtype == INTEGER else 1
        return max(CHUNK // max(row, 1), 1) * row

    def write_floats(self, name: str, start: int, exact: NDArray[np.float32]) -> tuple[float, float]:
        """Write a piece of a tensor; return its squared norm and its squared rounding error.

        Args:
            name: The tensor's.
            start: Its first element: of blocks, the first of a row.
            exact: The values, one dimension, contiguous: of blocks, whole rows.

        Raises:
            CheckpointError: A value is not finite in the stored format.
        """
        tensor = self._tensors[name]
        rounded = (
            self._integers(tensor, start, exact)
            if tensor.dtype == INTEGER
            else self._floats(tensor, start, exact)
        )
        rounded -= exact
        return squared_sum(exact), squared_sum(rounded)

    def _floats(self, tensor: TensorSpec, start: int, exact: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write a piece in a format of floats; return what it stands for."""
        stored = np.empty(exact.size, FLOATS[tensor.dtype])
        narrow(exact, tensor.dtype, stored)
        if not is_finite(stored, tensor.dtype):
            raise _not_finite(tensor)
        self.write(tensor.name, start, stored)
        rounded = np.empty_like(exact)
        widen(stored, tensor.dtype, rounded)
        return rounded

    def _integers(self, tensor: TensorSpec, start: int, exact: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write a piece in blocks of int8; return what it stands for."""
        if not is_finite(exact, "F32"):
            raise _not_finite(tensor)
        width, run = tensor.shape[-1], run_of(tensor.shape, start, exact.size)
        rows, steps = quantise(exact.reshape(-1, width))
        stored, scales = rows.reshape(-1), steps.reshape(-1)
        self.write(tensor.name, start, stored)
        self.write(tensor.name + SCALE, run.first, scales)
        return dequantise(run, stored, scales)


def _not_finite(tensor: TensorSpec) -> CheckpointError:
    hint = "its training diverged, or a file is damaged: take another checkpoint"
    return CheckpointError(f"{tensor.name} holds values that are not finite", hint=hint)


def delta_writer(
    path: Path, base_digest: Digest, shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> DeltaWriter:
    """A writer of a vector; what it takes is what `write_delta` takes."""
    metadata = {"dem": DELTA_FORMAT, "base": base_digest}
    code = CODES["bfloat16" if dtype == "int8" else dtype]
    specs = {name: TensorSpec(name, code, tuple(shape)) for name, shape in shapes.items()}
    if dtype == "int8":
        metadata |= {"dem": QUANTISED, "block": str(BLOCK)}
        for name, shape in shapes.items():
            if blocks_in(shape) and name + SCALE not in shapes:  # the name of its scales could be taken
                specs[name] = TensorSpec(name, INTEGER, tuple(shape))
                specs[name + SCALE] = TensorSpec(name + SCALE, code, scales_shape(shape))
    return DeltaWriter(path, metadata, specs)


def write_difference(
    writer: DeltaWriter,
    base: Checkpoint,
    tuned: Checkpoint,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[DeltaNorms, dict[str, float]]:
    """Write the vector of a fine-tuned model, tuned minus base in float32, in pieces: memory is a few of them.

    Args:
        writer: As `delta_writer` returns it for the shapes of `base`, entered.
        base: Θ, open.
        tuned: Θᵢ, open: the base's names and shapes, in any float format and file order. A tensor may have fewer rows
            than the base's: ΔΘ is zero in those that are missing at its end.
        on_progress: Called with the elements done; what it raises stops the work.

    Returns:
        The vector's norms, and ‖ΔΘ‖ / ‖Θ‖ of each tensor.

    Raises:
        CheckpointError: Weights that are not finite; the message names the tensor.
    """
    squares, moved, done = [(0.0, 0.0)], {}, 0
    for name, shape in delta_shapes(base).items():
        of_tensor, lengths, piece = [(0.0, 0.0)], [0.0], writer.piece(name)
        for start in range(0, math.prod(shape), piece):
            theta, difference = _piece(base, name, start, piece), _piece(tuned, name, start, piece)
            lengths.append(squared_sum(theta))
            # Exact where tuned is within a factor of 2 of base (Sterbenz's lemma): base + ΔΘ, in float32, is then tuned
            # again, to the last bit.
            with np.errstate(all="ignore"):  # what is not finite is found when it is stored, and named
                difference -= theta[: difference.size]
            # Rows at the end that the base alone has are as they were.
            if missing := theta.size - difference.size:
                difference = np.pad(difference, (0, missing))
            of_tensor.append(writer.write_floats(name, start, difference))
            done += theta.size
            on_progress(done)
        squares += of_tensor
        length = math.fsum(lengths)
        # What was zero has no length to compare with.
        moved[name] = math.sqrt(math.fsum(square for square, _ in of_tensor) / length) if length > 0 else 0.0
    return _norms(squares, done), moved


def _piece(weights: Checkpoint, name: str, start: int, most: int) -> NDArray[np.float32]:
    """Read at most so many elements of a tensor as float32; none beyond its end."""
    tensor = weights.tensors[name]
    return weights.floats(tensor, start, min(most, max(tensor.size - start, 0)))


def _norms(squares: list[tuple[float, float]], elements: int) -> DeltaNorms:
    # fsum rounds once, at the end: the order in which tensors came reaches no digit.
    norm, error = (math.sqrt(math.fsum(column)) for column in zip(*squares, strict=True))
    return DeltaNorms(norm, error, elements)
