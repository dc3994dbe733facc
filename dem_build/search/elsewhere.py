"""Where else to look: the ω of which the models of the losses expect most, also where a search has not been.

Expected improvement (D. R. Jones, M. Schonlau and W. J. Welch, Efficient Global Optimization of Expensive Black-Box
Functions, J. Global Optimization 13, 1998, section 4), times the probability that all limits are kept (M. Schonlau,
W. J. Welch and D. R. Jones, Global versus Local Search in Constrained Optimization of Computer Models, 1998). It is
high where much is expected and where little is known: a descent sees the first alone, and ends where it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dem_build.search.problem import Problem, Sample, Vector
    from dem_build.search.surrogate import Surrogate

__all__ = ["expected_improvement", "most_expected", "most_promised"]

CANDIDATES = 1024
NEAR = 128  # around the best of them, nearer and nearer
REACHES = (0.1, 0.05, 0.025)  # of the bounds' width
UNSEEN = 0.1  # of the bounds' width: how far from all samples a place is that nobody has looked at
LIKELY = 0.5  # that limits are kept, where that is asked of a place
SEED = 1  # the same places every time: what is found follows from what was measured alone
LEAST_DOUBT = 1e-12
SLACK = 0.1  # of what the lowest loss of a judge gains: how much lower still its losses may be expected
DOUBTED = 3.0  # standard deviations: how far below what is expected losses may be


def most_expected(
    problem: Problem, surrogate: Surrogate, samples: Sequence[Sample], *, anywhere: bool
) -> tuple[Vector, float]:
    """Return the ω of the highest expected improvement over the best sample, and that improvement of the score.

    Args:
        problem: Objective, limits, bounds and penalty.
        surrogate: Of all samples.
        samples: All of them.
        anywhere: Whether it begins with places anywhere within the bounds; else where most good ones are.
    """
    draws = np.random.default_rng(SEED)
    points = _anywhere(problem, draws) if anywhere else _between(problem, draws)
    expected = expected_improvement(problem, surrogate, samples, points)
    at, most = points[expected.argmax()], float(expected.max())
    for reach in REACHES:
        move = reach * (problem.upper - problem.lower) * draws.normal(size=(NEAR, problem.size))
        points = np.clip(at + move, problem.lower, problem.upper)
        expected = expected_improvement(problem, surrogate, samples, points)
        if expected.max() > most:
            at, most = points[expected.argmax()], float(expected.max())
    return problem.clip(at), most


def most_promised(problem: Problem, surrogate: Surrogate, samples: Sequence[Sample]) -> Vector | None:
    """Return the ω of the lowest promised score where no sample is near; None where all is near to one.

    Without derivatives the models are so unsure of most places that expected improvement leads to the unsurest,
    whatever is promised there.

    Args:
        problem: Objective, limits, bounds and penalty.
        surrogate: Of all samples.
        samples: All of them.
    """
    points = _between(problem, np.random.default_rng(SEED))
    width = np.maximum(problem.upper - problem.lower, np.finfo(np.float64).tiny)
    near = np.array([np.abs((points - s.omega) / width).max(axis=1) for s in samples]).min(axis=0) < UNSEEN
    losses, doubt = surrogate.among(points)
    scores = np.array([problem.objective.score(at) for at in losses]) + [problem.penalty(at) for at in points]
    scores = np.where(near | (_allowed(problem, losses, doubt) < LIKELY), np.inf, scores)
    return problem.clip(points[scores.argmin()]) if np.isfinite(scores).any() else None


def _anywhere(problem: Problem, draws: np.random.Generator) -> NDArray[np.float64]:
    return draws.uniform(problem.lower, problem.upper, (CANDIDATES, problem.size))


def _between(problem: Problem, draws: np.random.Generator) -> NDArray[np.float64]:
    """Return sums of shares of each ω's upper bound, shares that add up to a half to one and a half.

    Models that are worth a look have a part of each vector; of many ω, hardly a point of the whole box is such a one.
    """
    nothing = np.clip(0.0, problem.lower, problem.upper)
    shares = draws.dirichlet(np.ones(problem.size), CANDIDATES)
    shares *= draws.uniform(0.5, 1.5, (CANDIDATES, 1))
    return np.asarray(np.clip(nothing + shares * (problem.upper - nothing), problem.lower, problem.upper))


def expected_improvement(
    problem: Problem, surrogate: Surrogate, samples: Sequence[Sample], points: Vector
) -> Vector:
    """Return by how much each of some ω is expected to be better than the best sample, [points].

    The score is normal, cut off where all losses would be as low as they may be: three standard deviations below what
    is expected, and hardly below the lowest of the judge so far. Models that know little of a place promise a gain
    there that no vector has. While no sample keeps all limits, only how probable it is that they are kept counts.

    Args:
        problem: Objective, limits and penalty.
        surrogate: Of all samples.
        samples: All of them.
        points: [points, ω].
    """
    objective, best = problem.objective, problem.best(samples)
    losses, doubt = surrogate.among(points)
    allowed, penalties = _allowed(problem, losses, doubt), np.array([problem.penalty(at) for at in points])
    scores = np.array([objective.score(at) for at in losses]) + penalties
    if not objective.keeps_limits(problem.losses(best)):
        return np.asarray(allowed * np.ptp(scores))
    # To first order in the losses; the models of different judges err apart from each other.
    slopes = np.array([objective.slope(at) for at in losses])
    error = np.maximum(np.sqrt(((slopes * doubt) ** 2).sum(axis=1)), LEAST_DOUBT)
    lowest = np.min([problem.losses(sample) for sample in samples], axis=0)
    floor = lowest - SLACK * np.maximum(objective.base - lowest, 0)
    within = np.minimum(losses, np.maximum(losses - DOUBTED * doubt, floor))
    least = np.array([objective.score(at) for at in within]) + penalties
    expected = _shortfall(problem.score(best) - scores, error) - _shortfall(least - scores, error)
    return np.asarray(allowed * np.maximum(expected, 0.0))


def _shortfall(limit: Vector, error: Vector) -> Vector:
    """Return E[max(limit - x, 0)] for normal x of mean 0 and standard deviation `error`."""
    z = limit / error
    return np.asarray(limit * ndtr(z) + error * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def _allowed(problem: Problem, losses: Vector, doubt: Vector) -> Vector:
    """Return the probability that all limits are kept, [points]."""
    limited = np.isfinite(problem.objective.limit)
    room = (problem.objective.base + problem.objective.limit - losses)[:, limited]
    return np.asarray(ndtr(room / np.maximum(doubt[:, limited], LEAST_DOUBT)).prod(axis=1))
