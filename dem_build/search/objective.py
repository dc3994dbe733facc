"""What tuning makes small: a score of the losses of all datasets, and the limits that probes set.

With base loss B_j and the loss S_j that dataset j's own vector reaches alone (ω = 1), the gain recovered of a model
with loss L_j is

    g_j = (B_j - L_j) / max(B_j - S_j, least_gain_j)

so that 0 is the base and 1 what the single vector reaches. A single vector that changes next to nothing, or is judged
on so few rows that they have no standard error, must not make its own dataset count for everything: see
`significance.least_gain`. Scores are written so that less is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.stats import least_gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dem_build.search.problem import Vector

__all__ = ["Objective", "gain_scale"]

SAME_LOSS = 1e-6
"""Share of a loss: other batches sum the same rows in another order."""


@dataclass(frozen=True)
class Objective:
    """A score of the judges' mean losses per token, [judges] everywhere.

    Attributes:
        kind: `gain`, the mean gain recovered; `mean`, the mean loss; `worst`, the least gain of any dataset.
        importance: Weight of each judge; 0 for what does not count (probes). Sums to 1.
        base: Loss of the base.
        scale: Denominator of the gain, positive; see `gain_scale`.
        limit: Most that a judge's loss may be above the base's; infinite where it may be anything.
    """

    kind: str
    importance: Vector
    base: Vector
    scale: Vector
    limit: Vector

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which judges enter the score."""
        return np.asarray(self.importance > 0)

    def gains(self, losses: Vector) -> Vector:
        """Return the gain recovered of each judge."""
        return (self.base - losses) / self.scale

    def score(self, losses: Vector) -> float:
        """Return what is minimised."""
        if self.kind == "mean":
            return float(self.importance @ losses)
        gains = self.gains(losses)
        if self.kind == "worst":
            return float(-gains[self.counted].min())
        return float(-(self.importance @ gains))

    def slope(self, losses: Vector) -> Vector:
        """Return the score's derivative to each loss; of `worst`, that of the worst dataset alone."""
        if self.kind == "mean":
            return self.importance
        if self.kind == "worst":
            worst = int(np.where(self.counted, self.gains(losses), np.inf).argmin())
            return np.asarray(np.eye(len(losses))[worst] / self.scale)
        return self.importance / self.scale

    def excess(self, losses: Vector) -> Vector:
        """Return how far each loss is above what its limit allows; -inf where there is no limit."""
        return losses - self.base - self.limit

    def passed(self, losses: Vector) -> NDArray[np.bool_]:
        """Return which limits are passed, by more than two measurements of one loss in float32 differ."""
        return np.asarray(self.excess(losses) > SAME_LOSS * self.base)

    def keeps_limits(self, losses: Vector) -> bool:
        """Return whether no limit is passed."""
        return not self.passed(losses).any()


def gain_scale(base: Vector, single: Vector, stderr: Vector) -> Vector:
    """Return the denominators of the gain recovered, [judges].

    Args:
        base: Losses of the base.
        single: Loss of each dataset's own vector alone, at ω = 1; the base's loss where there is none.
        stderr: Standard error of `base - single`, paired by rows; infinite where there are too few rows to tell.
    """
    known = [error if np.isfinite(error) else None for error in stderr.tolist()]
    gains = (base - single).tolist()
    least = [least_gain(*one) for one in zip(base.tolist(), gains, known, strict=True)]
    return np.asarray(np.maximum(np.maximum(gains, least), np.finfo(np.float32).tiny))
