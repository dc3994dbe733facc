"""The least squares of a linear module: normal equations, summed in a fixed order and solved in float64.

    W  =  argmin  Σ_j a_j Σ_t s_t ‖W z_jt - y_jt‖²  +  λ m ‖W - W₀‖²
       =  W₀ + N (G + λ m I)⁻¹
    G  =  Σ_j a_j Σ_t s_t z_jt z_jtᵀ          m = median of the diagonal of G, of what is not 0 there
    N  =  Σ_j a_j Σ_t s_t (y_jt - W₀ z_jt) z_jtᵀ

One and the same pull on all inputs: a share of each input's own square would leave those free that hardly move, and a
mean would follow the few that are a thousand times as large as the others.

The prior W₀ = Θ + M may be too short, as a mean of vectors is that hardly act on each other's rows. How much longer it
should be is least squares of one number, which takes no more than G and N:

    c  =  1 + ⟨M, N⟩ / ⟨M, M G⟩          W₀ + (c - 1) M as the prior:   W = W₀ + (N + (c - 1) λ m M) (G + λ m I)⁻¹

Products of up to `CHUNK` tokens are float32, and their sums float64. Both are cut into blocks of `BLOCK` columns, each
computed by one thread. Chunks and blocks follow from rows and widths alone, so no number of threads reaches a bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeAlias

    ForEach: TypeAlias = "Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]"

CHUNK = 512  # tokens
BLOCK = 256  # columns of a matrix


class Factor:
    """The Cholesky factor L of G + λ m I.

    Args:
        lower: L in the lower triangle, float64 [width, width]; what lies above counts for nothing.
        pull: λ m.
    """

    def __init__(self, lower: torch.Tensor, pull: float) -> None:
        self._lower, self.pull = lower, pull

    def solve(self, targets: torch.Tensor, for_each: ForEach) -> torch.Tensor:
        """(W - W₀)ᵀ, float64 [width, outputs], for Nᵀ of that shape, which is overwritten."""

        def block(start: int) -> None:
            part = targets[:, start : start + BLOCK]
            half = torch.linalg.solve_triangular(self._lower, part, upper=False)
            part.copy_(torch.linalg.solve_triangular(self._lower.mT, half, upper=True))

        for_each(block, range(0, targets.shape[1], BLOCK))
        return targets

    def square(self, edit: torch.Tensor, for_each: ForEach) -> float:
        """⟨M, M G⟩ = ‖M L‖² - λ m ‖M‖² of Mᵀ, float64 [width, outputs]: the squared change of outputs that M makes."""

        def block(start: int) -> float:
            stop = min(start + BLOCK, len(edit))
            part = self._lower[start:stop, start:stop].tril().T @ edit[start:stop]
            part += self._lower[stop:, start:stop].T @ edit[stop:]
            return part.square().sum().item()

        lengths = for_each(block, range(0, len(edit), BLOCK))
        return math.fsum(lengths) - self.pull * dot(edit, edit, for_each)


def dot(one: torch.Tensor, other: torch.Tensor, for_each: ForEach) -> float:
    """⟨A, B⟩ of two matrices, by blocks of rows: their product as a whole would be a third one."""

    def block(start: int) -> float:
        return (one[start : start + BLOCK] * other[start : start + BLOCK]).sum().item()

    return math.fsum(for_each(block, range(0, len(one), BLOCK)))


def factorised(
    batches: Iterable[Sequence[tuple[torch.Tensor, torch.Tensor]]],
    width: int,
    ridge: float,
    device: torch.device,
    for_each: ForEach,
) -> Factor | None:
    """Sum G and factorise it: arguments as of `gram_of` and `factor_of`; None where an input is not finite."""
    gram = gram_of(batches, width, device, for_each)
    return factor_of(gram, ridge, for_each) if bool(gram.diagonal().isfinite().all()) else None


def gram_of(
    batches: Iterable[Sequence[tuple[torch.Tensor, torch.Tensor]]],
    width: int,
    device: torch.device,
    for_each: ForEach,
) -> torch.Tensor:
    """Sum G, float64 [width, width], in the lower triangle.

    Args:
        batches: Pieces of at most CHUNK tokens: inputs z and inputs times weights a_j s_t, float32 [tokens, width]
            each.
        width: Of the inputs.
        device: Where it is computed.
        for_each: Calls a function with each of some arguments, several at a time.
    """
    gram = torch.zeros((width, width), dtype=torch.float64, device=device)
    for pieces in batches:

        def block(start: int, pieces: Sequence[tuple[torch.Tensor, torch.Tensor]] = pieces) -> None:
            stop = min(start + BLOCK, width)
            for values, weighted in pieces:  # the lower triangle alone
                gram[start:stop, :stop] += weighted[:, start:stop].T @ values[:, :stop]

        for_each(block, range(0, width, BLOCK))
    return gram


def factor_of(gram: torch.Tensor, ridge: float, for_each: ForEach) -> Factor:
    """Factorise G + λ m I.

    Args:
        gram: G, float64 [width, width], in the lower triangle; it is overwritten.
        ridge: λ.
        for_each: As in `gram_of`.

    Raises:
        CheckpointError: λ is so small that what float32 products leave of G has no factor.
    """
    diagonal = gram.diagonal()
    living = diagonal[diagonal > 0]  # an input that is always 0 has a column of N that is, too: W₀ stays
    pull = ridge * living.median().item() if len(living) else 1.0
    diagonal += pull
    if not _factorise(gram, for_each):
        raise CheckpointError(
            f"with ridge = {ridge:g} the least squares of a layer of {len(gram)} inputs cannot be solved",
            hint="raise `ridge` in [compose], or `rows`",
        )
    return Factor(gram, pull)


def _factorise(matrix: torch.Tensor, for_each: ForEach) -> bool:
    """Cholesky by blocks, in the lower triangle and in place: the library's own takes a second matrix of its size.

    Whether there is a factor.
    """
    width = len(matrix)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        corner, failed = torch.linalg.cholesky_ex(matrix[start:stop, start:stop])
        if failed:
            return False
        matrix[start:stop, start:stop] = corner
        below = range(stop, width, BLOCK)

        def panel(row: int, held: slice = slice(start, stop), corner: torch.Tensor = corner) -> None:
            part = matrix[row : row + BLOCK, held]
            part.copy_(torch.linalg.solve_triangular(corner.mT, part, upper=True, left=False))

        def trailing(row: int, held: slice = slice(start, stop), first: int = stop) -> None:
            last = min(row + BLOCK, width)
            matrix[row:last, first:last] -= matrix[row:last, held] @ matrix[first:last, held].T

        for_each(panel, below)
        for_each(trailing, below)
    return True


class Targets:
    """Nᵀ while it is summed: float64 [width, outputs]."""

    def __init__(self, width: int, outputs: int, device: torch.device) -> None:
        self.sums = torch.zeros((width, outputs), dtype=torch.float64, device=device)

    def add(self, pieces: Sequence[tuple[torch.Tensor, torch.Tensor]], for_each: ForEach) -> None:
        """Add Σ a_j s_t z (y - W₀ z)ᵀ.

        Args:
            pieces: Of at most CHUNK tokens: inputs times weights [tokens, width], and y - W₀ z [tokens, outputs].
            for_each: As in `factorised`.
        """

        def block(start: int) -> None:
            part = slice(start, start + BLOCK)
            for weighted, residual in pieces:
                self.sums[part] += weighted[:, part].T @ residual

        for_each(block, range(0, self.sums.shape[0], BLOCK))
