"""`ties`: small changes are dropped, signs elected, and what agrees with them is averaged (arXiv 2306.01708).

As mergekit defines it: of each tensor of each vector the largest |ΔΘ| are kept, by their share `density`; of each
element the sign of Σ ω ΔΘ is elected, + where that is 0; the vectors that have it are averaged with their ω. A single
vector is trimmed as well. Of changes as large as the smallest that is kept all are kept, where mergekit leaves it to
its sort which: stored in bfloat16 many are alike, and no order of theirs is to reach a bit.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.method import Method, pieces

if TYPE_CHECKING:
    from dem_build.actions.compose.methods.method import Chunk, Tensor, Values

HALF = 16  # bits


def _thresholds(tensor: Tensor) -> list[float]:
    """The smallest |ΔΘ| of each vector that is kept."""
    kept = max(1, int(tensor.params["density"] * tensor.size))
    return [_largest(tensor, term, kept) for term in range(len(tensor.terms))]


def _largest(tensor: Tensor, term: int, rank: int) -> float:
    """The |ΔΘ| that has `rank` - 1 others above or beside it.

    Without its sign a float is an integer in the order of its size, so it is found by its halves: no sort, and no more
    in memory than a piece.
    """
    upper, rank = _digit(tensor, term, rank, None)
    lower, _ = _digit(tensor, term, rank, upper)
    value: float = struct.unpack("<f", struct.pack("<I", (upper << HALF) | lower))[0]
    return value


def _digit(tensor: Tensor, term: int, rank: int, upper: int | None) -> tuple[int, int]:
    """A half of the element of that rank, and its rank among those that share it.

    Args:
        tensor: The tensor.
        term: Whose elements.
        rank: Among all of them, or among those of one upper half; 1 for the largest.
        upper: The upper half that counts; None to find it.
    """
    import numpy as np  # noqa: PLC0415  rules of recipes read this file's entry, and no numbers

    counts = np.zeros(1 << HALF, np.int64)
    for start, stop in pieces(tensor.size):
        bits = np.abs(tensor.vector(term, start, stop)).view(np.uint32)
        halves = bits >> HALF if upper is None else bits[bits >> HALF == upper] & ((1 << HALF) - 1)
        counts += np.bincount(halves, minlength=counts.size)
    above = np.cumsum(counts[::-1])[::-1]  # as large, or larger
    digit = int(np.flatnonzero(above >= rank)[-1])
    return digit, rank - int(above[digit] - counts[digit])


def _merge(chunk: Chunk) -> Values:
    """Result = Θ + λ Σ' ω ΔΘ / Σ' ω over the vectors that have the elected sign.

    What pulls up and what pulls down are summed apart: the larger of the two has the sign.
    """
    import numpy as np  # noqa: PLC0415  as above

    zero = np.float32(0)
    up, of_up, down, of_down = np.zeros((4, chunk.base.size), np.float32)  # the sums, and the ω in each
    for (vector, omega), threshold in zip(chunk.terms(), chunk.prepared, strict=True):
        vector[np.abs(vector) < threshold] = zero
        np.multiply(vector, omega, out=vector)
        of_up += np.where(vector > zero, omega, zero)
        of_down += np.where(vector < zero, omega, zero)
        up += np.maximum(vector, zero)
        down += np.minimum(vector, zero)
    elected = up + down >= zero
    weight = np.where(elected, of_up, of_down)
    weight[weight == zero] = 1  # nobody's, as a rule: the sum is 0
    mean = np.where(elected, up, down)
    mean /= weight
    return chunk.add(chunk.base, mean, chunk.params["scale"])


TIES = Method(
    name="ties",
    formula="Θ + λ Σ' ωᵢ trim(ΔΘᵢ) / Σ' ωᵢ",
    sentence=(
        "TIES (arXiv 2306.01708): `Θ + λ Σ' ω_i trim(ΔΘ_i) / Σ' ω_i`, where `trim` keeps the largest changes of "
        "each tensor, and `Σ'` is over the vectors whose sign is that of the sum of all; `ΔΘ_i` is what fine-tuning "
        "the base `Θ` on dataset `i` changed"
    ),
    keeps="the largest changes, where they agree in sign",
    omega="the vector's weight beside the others",
    default=1.0,
    combine=_merge,
    prepare=_thresholds,
    keys=("density", "scale"),
)
