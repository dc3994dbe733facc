"""Tensors stored as int8 in blocks: a value is q · s, with q in -127 … 127 and a scale s for each block.

A block is up to `BLOCK` neighbours in a row, along the last dimension: none reaches into another row, so rows can be
written and read by ranges of bytes. The scale is the block's largest magnitude by 127, as bfloat16: q has 7 bits and s
has 8, so that their product is exact in float32, on every CPU and GPU and in any order. What is stored is at most s / 2
away from what was meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.floats import from_bfloat16, to_bfloat16

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
SCALE = "_scale"
"""A tensor's name and this are the name of its scales, as compressed-tensors calls them."""
LEAST = 32  # elements of a row: scales of shorter ones would cost more than 1/16 of what they describe
MOST = 127


def blocks_in(shape: tuple[int, ...]) -> int:
    """The blocks in a row of a tensor of this shape, or 0 if it is stored as floats: a bias, a norm, short rows."""
    return -(-shape[-1] // BLOCK) if len(shape) > 1 and shape[-1] >= LEAST else 0


def scales_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a tensor of this shape: a number for each block."""
    return (*shape[:-1], blocks_in(shape))


@dataclass(frozen=True)
class Run:
    """The scales of a run of a tensor's elements: those of all rows that it touches.

    Attributes:
        first: The first of them.
        rows: How many rows there are.
        blocks: How many blocks a row has.
        width: Elements in a row.
        skipped: Elements of the first row that come before the run.
    """

    first: int
    rows: int
    blocks: int
    width: int
    skipped: int

    @property
    def scales(self) -> int:
        """How many scales there are."""
        return self.rows * self.blocks

    def is_whole(self, size: int) -> bool:
        """Whether `size` elements are these rows, each of one block: then a row is multiplied by one number."""
        return self.blocks == 1 and not self.skipped and size == self.rows * self.width


def run_of(shape: tuple[int, ...], start: int, size: int) -> Run:
    """Where the scales of `size` elements of a tensor lie, from the `start`-th element on."""
    # Whole blocks follow each other from row to row: each is then a row of its own.
    width, blocks = (BLOCK, 1) if shape[-1] % BLOCK == 0 else (shape[-1], blocks_in(shape))
    first = start // width
    rows = -(-(start + size) // width) - first
    return Run(first * blocks, rows, blocks, width, start - first * width)


def quantise(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Round whole rows, [rows, elements], to int8 and their scales, bfloat16 bits [rows, blocks].

    The values must be finite. A block of zeros has the scale 0.
    """
    count, width = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -width % BLOCK))) if width % BLOCK else rows
    blocks = padded.reshape(count, -1, BLOCK)
    scales = to_bfloat16(np.abs(blocks).max(axis=-1) / np.float32(MOST))
    # Divided by what is stored, so that what the scale's own rounding loses is made up for.
    steps = from_bfloat16(scales)[..., None]
    whole = np.divide(blocks, np.where(steps == 0, np.float32(1), steps))
    np.rint(whole, out=whole)
    # A scale that was rounded down makes at most 127.496 of the largest; one below bfloat16's normal numbers, more.
    np.clip(whole, -MOST, MOST, out=whole)
    return whole.reshape(count, -1)[:, :width].astype(np.int8), scales


def dequantise(run: Run, stored: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of a run of elements, exactly; `scales` are the bits of its bfloat16 scales."""
    values = stored.astype(np.float32)
    steps = from_bfloat16(scales)
    if run.is_whole(values.size):
        values.reshape(-1, run.width)[...] *= steps[:, None]
    else:
        spread = np.repeat(steps.reshape(run.rows, run.blocks), BLOCK, axis=1)[:, : run.width].reshape(-1)
        values *= spread[run.skipped : run.skipped + values.size]
    return values


def dequantise_planes(
    run: Run, stored: NDArray[np.int8], scales: NDArray[np.uint16], out: NDArray[np.float32]
) -> None:
    """The same as two planes (see floats.py); where `out`, of even length, has one element too many, it is a zero."""
    half = out.size // 2
    if run.is_whole(stored.size) and not run.width % 2:  # each plane then has half of each row
        steps = from_bfloat16(scales)[:, None]
        for plane, part in ((out[:half], stored[0::2]), (out[half:], stored[1::2])):
            np.copyto(plane, part)
            plane.reshape(-1, run.width // 2)[...] *= steps
        return
    values = dequantise(run, stored, scales)
    out[-1:] = 0  # where there is one too many
    out[:half] = values[0::2]
    out[half : half + values.size // 2] = values[1::2]
