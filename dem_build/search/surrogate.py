"""A smooth model of every judge's loss around ω, from a few losses and their derivatives.

Gaussian-process regression with derivative observations and the rational quadratic kernel of α = 2,

    k(x, y) = (1 + |x - y|² / 2αℓ²)^-α

(C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2, 4.2.1 and 9.4). All
judges are sampled at the same ω, so one factorisation serves them all, resampled losses included. ℓ maximises the
likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.search.problem import Sample, SearchProblem, Vector

# Of ℓ, for one ω; in k dimensions √k times that, as the distance of places whose ω all differ by as much. With half of
# the shortest, that is the one which the likelihood chose of real losses, and every look elsewhere went astray.
LENGTHS = (0.35, 0.7, 1.4, 2.8, 5.6)
# The kernel is a sum of Gaussian ones of many ℓ (Rasmussen and Williams, equation 4.20): losses bend sharply where a
# skill sets in and hardly beyond, and a Gaussian kernel of the one short ℓ that the bend asks for knows nothing a
# little further on. With α = 1, a wider sum, searches took more steps.
ALPHA = 2.0
LEAST = 1e-6  # nats: what a loss of nothing counts as
NOISE = 1e-6  # of a loss or slope against the signal's variance: losses are computed in float32


@dataclass(frozen=True)
class Design:
    """Where losses (at `points`, [points, ω]) and slopes (at the points of `sloped`) are known, and at which ℓ."""

    points: Vector
    sloped: Vector
    length: float

    @classmethod
    def of(cls, samples: Sequence[Sample], length: float) -> Design:
        """The design of some samples."""
        points = np.array([s.omega for s in samples])
        sloped = np.array([s.omega for s in samples if s.slopes is not None]).reshape(-1, points.shape[1])
        return cls(points, sloped, length)

    def factor(self) -> tuple[Vector, bool]:
        """The Cholesky factor of all observations' covariance: losses first, then slopes point by point."""
        # Losses and slopes are one set of observations: differentiating is linear, so their covariances are the
        # kernel's derivatives (Rasmussen and Williams, equation 9.1).
        covariance = np.vstack([_values_with(self.points, self), _slopes_with(self.sloped, self)])
        scale = np.diag(covariance).copy()
        noise = NOISE
        while True:
            try:
                factor, lower = cho_factor(covariance + np.diag(scale * noise), lower=True)
            except np.linalg.LinAlgError:
                noise *= 10  # points that nearly coincide: believe them a little less
            else:
                return factor, lower


class Surrogate:
    """The posterior mean of the logarithm of each judge's loss.

    Args:
        design: Where is known what.
        targets: The observations in the design's order, [observations, judges].
        factor: Cholesky factor of the design's covariance.
    """

    def __init__(self, design: Design, targets: Vector, factor: tuple[Vector, bool]) -> None:
        self._design = design
        self.factor = factor
        losses = targets[: len(design.points)]
        self._center = losses.mean(axis=0)
        # A prior mean that is constant: nothing is known of a loss but those that were measured. Its slope is 0.
        centred = targets.copy()
        centred[: len(design.points)] -= self._center
        self._weights = cho_solve(factor, centred)  # Rasmussen and Williams, algorithm 2.1
        self._centred = centred

    @classmethod
    def fit(cls, problem: SearchProblem, samples: Sequence[Sample]) -> Surrogate:
        """The surrogate of the most likely ℓ."""
        targets = observations(problem, samples)
        root = np.sqrt(problem.size)
        designs = (Design.of(samples, scale * root) for scale in LENGTHS)
        # One at a time: with an ω for each layer a factor is large.
        return max(
            (cls(design, targets, design.factor()) for design in designs), key=Surrogate.log_likelihood
        )

    def refit(self, targets: Vector) -> Surrogate:
        """The surrogate of other observations at the same points."""
        return Surrogate(self._design, targets, self.factor)

    def log_likelihood(self) -> float:
        """The log marginal likelihood of all judges, the signal's variance of each at its best value.

        Rasmussen and Williams, equation 5.8, of which the quadratic term is a constant once the variance is the best
        one.
        """
        # One ℓ for all judges, and so one factor for all refits; docs/log.md has what one each was worth.
        count = len(self._centred)
        determinant = 2 * np.log(np.diag(self.factor[0])).sum()
        return float(-0.5 * (count * np.log(self._variance) + determinant).sum())

    @property
    def _variance(self) -> Vector:
        """The signal's most likely variance, [judges]."""
        signal = (self._centred * self._weights).sum(axis=0) / len(self._centred)
        return np.asarray(np.maximum(signal, 1e-300))

    def among(self, points: Vector) -> tuple[Vector, Vector]:
        """The expected losses at several ω, [points, ω], and their standard deviations: [points, judges] each."""
        beside = _values_with(points, self._design)
        # The median of a loss whose logarithm is normal, and to first order its error: that of the logarithm times it.
        losses = np.exp(self._center + beside @ self._weights)
        explained = np.einsum("po,op->p", beside, cho_solve(self.factor, beside.T))
        unsure = np.sqrt(np.maximum(1.0 - explained, 0.0))[:, None] * np.sqrt(self._variance)
        # No place is less sure than one of which nothing is known but how the losses differ that were taken: the
        # signal's variance, which slopes are a part of, would promise anything of a far corner.
        differ = self._centred[: len(self._design.points)].std(axis=0)
        return losses, losses * np.minimum(unsure, differ)

    def losses(self, omega: Vector) -> Vector:
        """The expected losses, [judges]."""
        return np.asarray(np.exp(self._center + (_values_with(omega[None], self._design) @ self._weights)[0]))

    def slopes(self, omega: Vector) -> Vector:
        """Their derivatives, [judges, ω]."""
        logarithms = (_slopes_with(omega[None], self._design) @ self._weights).T
        return np.asarray(self.losses(omega)[:, None] * logarithms)


def observations(problem: SearchProblem, samples: Sequence[Sample]) -> Vector:
    """Logarithms of losses, then their slopes, in a design's order: [observations, judges]."""
    # Logarithms: a loss falls steeply near the base and hardly where a skill is learned, and its logarithm more evenly.
    losses = np.array([np.maximum(problem.losses(s), LEAST) for s in samples])
    sloped = [(s, loss) for s, loss in zip(samples, losses, strict=True) if s.slopes is not None]
    slopes = [(problem.loss_slopes(s) / loss[:, None]).T for s, loss in sloped]
    return np.vstack([np.log(losses), *slopes])


def _values_with(at: Vector, design: Design) -> Vector:
    """The covariance of losses `at` [m, ω] with a design's observations, [m, observations]."""
    with_values = _kernel(at, design.points, design.length)
    difference = at[:, None, :] - design.sloped[None, :, :]  # cov(f(x), ∂f(y)/∂y) = k1 / ℓ² · (x - y)
    kernel = _kernel(at, design.sloped, design.length, 1)
    with_slopes = kernel[:, :, None] * difference / design.length**2
    return np.hstack([with_values, with_slopes.reshape(len(at), design.sloped.size)])


def _slopes_with(at: Vector, design: Design) -> Vector:
    """The covariance of slopes `at` [m, ω] with a design's observations, [m · ω, observations]."""
    size, squared = at.shape[1], design.length**2
    difference = at[:, None, :] - design.points[None, :, :]
    with_values = -_kernel(at, design.points, design.length, 1)[:, :, None] * difference / squared
    between = at[:, None, :] - design.sloped[None, :, :]
    once, twice = (_kernel(at, design.sloped, design.length, times)[:, :, None, None] for times in (1, 2))
    # cov(∂f(x)/∂x, ∂f(y)/∂y) = k1 / ℓ² · I - (α + 1) / α · k2 / ℓ⁴ · (x - y)(x - y)', ki of the exponent -(α + i)
    outer = between[:, :, :, None] * between[:, :, None, :] * ((ALPHA + 1) / ALPHA / squared**2)
    with_slopes = once * (np.eye(size) / squared) - twice * outer  # [m, sloped, ω of at, ω of design]
    return np.hstack(
        [
            with_values.transpose(0, 2, 1).reshape(len(at) * size, len(design.points)),
            with_slopes.transpose(0, 2, 1, 3).reshape(len(at) * size, len(design.sloped) * size),
        ]
    )


def _kernel(one: Vector, other: Vector, length: float, times: int = 0) -> Vector:
    """Return (1 + |x - y|² / 2αℓ²)^-(α + times): each derivative of the kernel lowers the exponent by 1."""
    squares = ((one[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-(ALPHA + times) * np.log1p(squares / (2 * ALPHA * length**2))))
