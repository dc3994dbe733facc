"""What a search minimises, and what is known of it: samples of the judges' losses, and of their slopes, at some ω.

The score is made of the losses of all datasets; probes set limits. With base loss B_j and the loss S_j that dataset j's
own vector reaches alone (ω = 1), the gain recovered of a model with loss L_j is

    g_j = (B_j - L_j) / max(B_j - S_j, least_gain_j)

so that 0 is the base and 1 what the single vector reaches. Scores are written so that less is better.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from dem_build.stats import least_gain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Vector: TypeAlias = "NDArray[np.float64]"

DECIMALS = 4
"""Decimals of an ω: what is measured is what is written down, and a person can read it."""

SAME_LOSS = 1e-6
"""Share of a loss: other batches sum the same rows in another order."""


@dataclass(frozen=True)
class Objective:
    """A score of the judges' mean losses per token, [judges] everywhere.

    Attributes:
        kind: `gain`, the mean gain recovered; `mean`, the mean loss; `worst`, the least gain of any dataset.
        importance: Weight of each judge; 0 for what does not count (probes). Sums to 1.
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
        """The gain recovered of each judge."""
        return (self.base - losses) / self.scale

    def score(self, losses: Vector) -> float:
        """What is minimised."""
        if self.kind == "mean":
            return float(self.importance @ losses)
        gains = self.gains(losses)
        if self.kind == "worst":
            return float(-gains[self.counted].min())
        return float(-(self.importance @ gains))

    def slope(self, losses: Vector) -> Vector:
        """The score's derivative to each loss; of `worst`, that of the worst dataset alone."""
        if self.kind == "mean":
            return self.importance
        if self.kind == "worst":
            worst = int(np.where(self.counted, self.gains(losses), np.inf).argmin())
            # Of two that are equally bad, the first: the score has a kink there, and this is one of its subgradients.
            return np.asarray(np.eye(len(losses))[worst] / self.scale)
        return self.importance / self.scale

    def excess(self, losses: Vector) -> Vector:
        """How far each loss is above what its limit allows; -inf where there is no limit."""
        return losses - self.base - self.limit

    def passed(self, losses: Vector) -> NDArray[np.bool_]:
        """Which limits are passed, by more than two measurements of one loss in float32 differ."""
        return np.asarray(self.excess(losses) > SAME_LOSS * self.base)

    def keeps_limits(self, losses: Vector) -> bool:
        """Whether no limit is passed."""
        return not self.passed(losses).any()


@dataclass(frozen=True)
class Sample:
    """One candidate and what was measured of it. A judge's prompts lie in blocks, the unit of resampling.

    Attributes:
        omega: Where, [ω].
        nll: Summed negative log-likelihood, [judges, blocks].
        slopes: Its derivatives to each ω, [judges, blocks, ω]; None where only the loss was taken.
    """

    omega: Vector
    nll: Vector
    slopes: Vector | None = None


class Oracle(Protocol):
    """What a search asks for the losses at an ω: the first-order oracle of optimisation."""

    def __call__(self, omega: Vector, *, slopes: bool) -> Sample:
        """The sample at `omega`, with slopes where they are asked for."""
        ...


@dataclass(frozen=True)
class SearchProblem:
    """A search to do.

    Attributes:
        objective: What is minimised, and the limits.
        tokens: Tokens that count, [judges, blocks].
        lower: Lowest ω, [ω].
        upper: Highest ω, [ω].
        center: What ω is drawn towards; with `pull`.
        pull: Weight of the mean squared distance to `center`, in the score's units.
        base_nll: Summed loss of the base, [judges, blocks]: resampled with the rest, since gains and limits are
            counted from the base on the same rows. None where the objective's base has no such blocks.
    """

    objective: Objective
    tokens: Vector
    lower: Vector
    upper: Vector
    measure: Oracle
    center: Vector | None = None
    pull: float = 0.0
    base_nll: Vector | None = None

    @property
    def size(self) -> int:
        """Number of ω."""
        return len(self.lower)

    def clip(self, omega: Vector) -> Vector:
        """An ω within the bounds, rounded as it will be written."""
        return np.clip(np.round(omega, DECIMALS), self.lower, self.upper)

    def near(self, omega: Vector, share: float) -> tuple[Vector, Vector]:
        """The lowest and highest ω within a share of the bounds' width of `omega`, [ω] each."""
        reach = share * (self.upper - self.lower)
        return np.maximum(self.lower, omega - reach), np.minimum(self.upper, omega + reach)

    def losses(self, sample: Sample) -> Vector:
        """Mean losses per token, [judges]."""
        return mean_losses(sample.nll, self.tokens)

    def loss_slopes(self, sample: Sample) -> Vector:
        """Derivatives of the mean losses, [judges, ω]."""
        assert sample.slopes is not None
        return np.asarray(sample.slopes.sum(axis=1) / self.tokens.sum(axis=1)[:, None])

    def penalty(self, omega: Vector) -> float:
        """What distance to the center costs."""
        return 0.0 if self.center is None else self.pull * float(np.mean((omega - self.center) ** 2))

    def score(self, sample: Sample) -> float:
        """What is minimised."""
        return self.objective.score(self.losses(sample)) + self.penalty(sample.omega)

    def best(self, samples: Sequence[Sample]) -> Sample:
        """The sample of the lowest score that keeps all limits; without one, the least excess."""
        kept = [s for s in samples if self.objective.keeps_limits(self.losses(s))]
        if kept:
            return min(kept, key=self.score)
        return min(samples, key=lambda s: float(self.objective.excess(self.losses(s)).max()))

    def step_stderr(self, sample: Sample, step: Vector) -> float:
        """The standard error, over blocks, of the score's change by a small step from a sample.

        To first order the change of a block's loss is its slope times the step; of a judge, their ratio to tokens.
        """
        assert sample.slopes is not None
        errors = ratio_stderr(sample.slopes @ step, self.tokens)
        return _weighted_stderr(self.objective.slope(self.losses(sample)), errors)

    def lead_stderr(self, one: Sample, other: Sample) -> float:
        """The standard error, over blocks, of the difference of two samples' scores; they read the same rows."""
        errors = ratio_stderr(one.nll - other.nll, self.tokens)
        return _weighted_stderr(self.objective.slope(self.losses(one)), errors)

    def gained(self, samples: Sequence[Sample]) -> float:
        """How much better the best of some samples is than the base, or the middle one where that is more.

        A scale of the score, whatever the objective; 0 where all are alike.
        """
        # Where nothing beats the base, or what keeps all limits does not, shares of its gain would be shares of
        # nothing.
        best, middle = self.score(self.best(samples)), float(np.median([self.score(s) for s in samples]))
        return max(self.objective.score(self.objective.base) - best, middle - best, 0.0)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        samples: All that were taken, in order.
        reason: Why it ended, as a word: `converged`, `settled` or `passes`.
        box: Lowest and highest ω, [ω] each, among which `best` is the best; None where these are the problem's bounds.
        ends: Where descents ended, `best` first, then others from the best one on: a basin each, none in two.
    """

    best: Sample
    samples: tuple[Sample, ...] = field(default=())
    reason: str = "converged"
    box: tuple[Vector, Vector] | None = None
    ends: tuple[Sample, ...] = field(default=())


def gain_scale(base: Vector, single: Vector, stderr: Vector) -> Vector:
    """The denominators of the gain recovered, [judges].

    Args:
        base: Losses of the base.
        single: Loss of each dataset's own vector alone, at ω = 1; the base's loss where there is none.
        stderr: Standard error of `base - single`, paired by rows; infinite where there are too few rows to tell.
    """
    # A vector that changes next to nothing, or is judged on so few rows that they have no standard error, must not make
    # its own dataset count for everything: see `stats.least_gain`.
    known = [error if np.isfinite(error) else None for error in stderr.tolist()]
    gains = (base - single).tolist()
    least = [least_gain(*one) for one in zip(base.tolist(), gains, known, strict=True)]
    return np.asarray(np.maximum(np.maximum(gains, least), np.finfo(np.float32).tiny))


def mean_losses(nll: Vector, tokens: Vector) -> Vector:
    """Mean losses per token, [judges], from their sums and from the tokens that count, [judges, blocks]."""
    return np.asarray(nll.sum(axis=1) / tokens.sum(axis=1))


def ratio_stderr(sums: Vector, tokens: Vector) -> Vector:
    """The standard error of Σ sums / Σ tokens over blocks, [judges], of [judges, blocks] each.

    Linearised as for any ratio of two sums over what was sampled (Cochran 1977, eq. 2.39). Infinite for one block.
    """
    blocks = np.count_nonzero(tokens, axis=1)  # a judge with few rows has empty blocks at its end
    total = tokens.sum(axis=1)
    residuals = sums - (sums.sum(axis=1) / total)[:, None] * tokens
    found = np.sqrt(blocks / np.maximum(blocks - 1, 1) * (residuals**2).sum(axis=1)) / total
    return np.where(blocks > 1, found, np.inf)


def _weighted_stderr(weight: Vector, errors: Vector) -> float:
    counted = weight != 0  # what does not count may be known as badly as it likes
    # To first order in the losses; squares add up as judges have rows of their own, whose errors are independent.
    return float(np.sqrt(((weight[counted] * errors[counted]) ** 2).sum()))
