"""A descent to the lowest score nearby: steps to where the models of the losses promise it, within a trust region.

Each step minimises the models over a box around the best sample, and measures there. The box grows where the models
were right and shrinks where they were not (A. R. Conn, N. I. M. Gould and Ph. L. Toint, Trust-Region Methods, 2000,
chapter 6); here the models are of all samples, not of the last one's derivatives alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dem_build.search.acquisition import promised, promised_best, score_doubt
from dem_build.search.surrogate import Surrogate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.search.problem import Sample, SearchProblem, Vector

RADIUS = 0.25  # of the first region, as a share of the bounds' width
LEAST_RADIUS = 0.01
# Share of what was promised that came true, above and below which the region does so, as in J. Nocedal and S. J.
# Wright, Numerical Optimization, 2nd ed. 2006, algorithm 4.1. That shrinks it to a quarter; here to a half, as the
# models have learned of the step that went wrong.
GROWS, SHRINKS = 0.75, 0.25
NEGLIGIBLE = 2e-4  # of the score's size: no step promises less
WORTH_A_LOOK = 5e-4  # of what the best gains: what a look elsewhere is expected to bring at least
NEARLY = 0.03  # of the same: an end that is worse by less is nearly as good, and a descent to one goes on
# Of the same: where the models are as sure of a step's score, and it comes out so, they need no derivatives there, and
# no further step is worth a pass that promises no more. On made-up losses that takes 11.7 forward-equivalents of a
# descent where it took 14.2, for the same finds.
SURE = 2e-3
APART = 0.07  # of the bounds' width: ends of descents that are nearer to each other are of one basin


def descend(
    problem: SearchProblem, samples: list[Sample], path: list[Sample], most: int, *, alone: bool = True
) -> tuple[Sample, str] | None:
    """Descend from the best sample of a path; its end, and why it ended, as `Found.reason`.

    Args:
        problem: What is searched.
        samples: All of them, which the models are made of; those of the descent are appended.
        path: Those of the descent itself; they are appended here, too.
        most: Most steps.
        alone: Whether it is the first descent; another one is given up, and None returned, where it is promised to end
            clearly worse than the best sample of all.
    """
    radius, reason, foreseen = RADIUS, "passes", False
    for _ in range(most):
        best = problem.best(path) if foreseen else _with_slopes(problem, samples, path)
        known = best, nearest_with_slopes(problem, samples, best)
        surrogate, error = Surrogate.fit(problem, samples), SURE * problem.gained(samples)
        if not alone and hopeless(problem, surrogate, samples, best, 2 * radius):
            return None
        box = problem.near(best.omega, radius)
        # The models' own minimum is not the only one in the box: the last samples and points around are other starts,
        # drawn by how many steps there were, so that a search which was interrupted goes the same way.
        around = np.random.default_rng(len(path)).normal(0, 0.3, (4, problem.size))
        starts = [best.omega, *(s.omega for s in path[-4:] if s is not best), *(best.omega + around)]
        there, promise = step(problem, surrogate, box, starts, best)
        settled = "settled" if promise > 0 else "converged"
        if not _worth_it(problem, known, there, promise, error):
            # What one ω is unsure of must not hide what another is sure of: the step is tried without the former.
            box = _sure(problem, surrogate, known, there, box)
            there, promise = step(problem, surrogate, box, [best.omega], best)
        if not _worth_it(problem, known, there, promise, error) or seen(samples, there):
            reason = settled
            break
        sure = score_doubt(problem, surrogate, there) <= error
        taken = problem.measure(there, slopes=not sure)
        samples.append(taken)
        path.append(taken)
        # A step back within a limit may promise nothing else, and then is no reason to shrink.
        kept = (problem.score(best) - problem.score(taken)) / promise if promise else 1.0
        off = abs(problem.score(taken) - promised(problem, surrogate, there))
        foreseen = sure and problem.best(path) is taken and off <= error
        if problem.best(path) is not taken or kept < SHRINKS:
            radius = radius / 2
        elif kept > GROWS:
            radius = min(2 * radius, 1.0)
        if radius < LEAST_RADIUS:
            reason = "converged"
            break
    return problem.best(path), reason


def _with_slopes(problem: SearchProblem, samples: list[Sample], path: list[Sample]) -> Sample:
    """The best sample of a path, whose slopes are taken now where they were not; it replaces the one without."""
    best = problem.best(path)
    if best.slopes is None:
        taken = problem.measure(best.omega, slopes=True)
        for some in (samples, path):
            some[next(i for i, s in enumerate(some) if s is best)] = taken
        return taken
    return best


def step(
    problem: SearchProblem,
    surrogate: Surrogate,
    box: tuple[Vector, Vector],
    starts: Sequence[Vector],
    best: Sample,
) -> tuple[Vector, float]:
    """The ω of the lowest score that the models promise within a box, and how much lower than the best it is."""
    there = problem.clip(promised_best(problem, surrogate, box, starts))
    return there, problem.score(best) - promised(problem, surrogate, there)


def nearest_with_slopes(problem: SearchProblem, samples: Sequence[Sample], here: Sample) -> Sample:
    """The sample with slopes that is nearest to a given one: that one itself, where it has them."""
    with_slopes = [s for s in samples if s.slopes is not None]
    return min(with_slopes, key=lambda s: (s is not here, distance(problem, s.omega, here.omega)))


def _sure(
    problem: SearchProblem,
    surrogate: Surrogate,
    known: tuple[Sample, Sample],
    there: Vector,
    box: tuple[Vector, Vector],
) -> tuple[Vector, Vector]:
    """The part of a box in which only those ω move whose own step promises more than its standard error.

    Args:
        problem: What is searched.
        surrogate: Of all samples.
        known: The best sample, and the one whose slopes say how much its rows disagree.
        there: Where all ω move to.
        box: Lowest and highest ω.
    """
    best, sloped = known
    sure = np.zeros(problem.size, np.bool_)
    for index, move in enumerate(np.diag(there - best.omega)):
        promise = problem.score(best) - promised(problem, surrogate, best.omega + move)
        sure[index] = promise > problem.step_stderr(sloped, move)
    return np.where(sure, box[0], best.omega), np.where(sure, box[1], best.omega)


def _worth_it(
    problem: SearchProblem, known: tuple[Sample, Sample], there: Vector, promise: float, error: float
) -> bool:
    """Whether a step is worth a pass; see `_sure` for what is `known`, and `SURE` for the error."""
    best, sloped = known
    # A best that passes a limit has to be left, whatever the score does.
    if not problem.objective.keeps_limits(problem.losses(best)):
        return True
    # Both ends judge the same rows, so it is the change's own standard error that counts, far below the score's. Half
    # of it: a step that is more likely right than not still pays, as what follows can correct it.
    noise = problem.step_stderr(sloped, there - best.omega)
    floor = NEGLIGIBLE * max(abs(problem.score(best)), 1e-3)
    if best.slopes is None:
        floor = max(floor, error)
    return promise > max(0.5 * noise if np.isfinite(noise) else 0.0, floor)


def hopeless(
    problem: SearchProblem, surrogate: Surrogate, samples: Sequence[Sample], here: Sample, radius: float
) -> bool:
    """Whether a descent from here is promised to end clearly worse than the best, beyond a limit, or in the best."""
    best = problem.best(samples)
    end = promised_best(problem, surrogate, problem.near(here.omega, radius), [here.omega])
    promise, gained = problem.score(best) - promised(problem, surrogate, end), problem.gained(samples)
    if not problem.objective.keeps_limits(surrogate.losses(end)):
        return True
    # One that leads into the best's own basin has to improve on it; to another basin it may be nearly as good.
    known = here is not best and distance(problem, end, best.omega) <= APART
    return promise < (WORTH_A_LOOK if known else -NEARLY) * gained


def distance(problem: SearchProblem, one: Vector, other: Vector) -> float:
    """The largest difference of one ω between two candidates, as a share of its bounds' width."""
    # An ω that is not searched has bounds of no width, and does not differ.
    width = np.maximum(problem.upper - problem.lower, np.finfo(np.float64).tiny)
    return float((np.abs(one - other) / width).max())


def seen(samples: Sequence[Sample], omega: Vector) -> bool:
    """Whether a sample was taken at just this ω."""
    return any(np.array_equal(s.omega, omega) for s in samples)
