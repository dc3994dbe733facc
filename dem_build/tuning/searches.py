"""Ways to look for ω: a grid, one coordinate after another, along the gradients of all losses, one vector alone.

The gradient search takes, in one forward and backward pass over a dataset, the derivative of its loss to all ω at
once. It keeps the losses of each dataset apart, models them (`surrogate`), and goes where the models promise the
lowest score, within a region in which they were right so far.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dem_build.tuning.inner import promised, promised_best
from dem_build.tuning.problem import DECIMALS, Found
from dem_build.tuning.surrogate import Surrogate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dem_build.tuning.problem import Problem, Sample, Vector

__all__ = [
    "SEARCHES",
    "coordinate_search",
    "gradient_search",
    "grid_search",
    "search",
    "single_search",
    "softmax_start",
]

MOST_STEPS = 16
RADIUS = 0.25  # of the first region, as a share of the bounds' width
LEAST_RADIUS = 0.01
TRUSTED, DOUBTED = 0.75, 0.25  # share of what was promised that came true
NEGLIGIBLE = 1e-4  # of the score's size: no step promises less
MOST_GRID = 256
FIRST_STEP, LAST_STEP = 0.25, 0.02  # of the coordinate search, as a share of the bounds' width
TEMPERATURE = 1.0  # nats


def search(name: str, problem: Problem, known: Sequence[Sample]) -> Found:
    """Search, from what is known already: at least one sample.

    Args:
        name: `gradient`, `coordinate`, `grid` or `single`.
        problem: What to search.
        known: Samples that count like those which the search takes itself.
    """
    return SEARCHES[name](problem, known)


def gradient_search(problem: Problem, known: Sequence[Sample], most: int = MOST_STEPS) -> Found:
    """Step to where the models of all losses promise the lowest score, in a region that grows and shrinks.

    Ends where a step promises less than half its own standard error over the data (paired: both ends judge the same
    rows), or nothing worth a pass; and where no single ω, moved alone, promises more than its own standard error: what
    one ω is unsure of must not hide what another is sure of.
    """
    samples, radius = list(known), RADIUS
    for _ in range(most):
        best = _with_slopes(problem, samples)
        surrogate = Surrogate.fit(problem, samples)
        box = problem.near(best.omega, radius)
        there, promise = _step(problem, surrogate, box, _beginnings(samples, best), best)
        reason = "settled" if promise > 0 else "converged"
        if not _worth_it(problem, best, there, promise):
            box = _sure(problem, surrogate, best, there, box)
            there, promise = _step(problem, surrogate, box, [best.omega], best)
        if not _worth_it(problem, best, there, promise) or _seen(samples, there):
            return Found(problem.best(samples), tuple(samples), reason)
        samples.append(problem.measure(there, slopes=True))
        # A step back within a limit may promise nothing else.
        kept = (problem.score(best) - problem.score(samples[-1])) / promise if promise else 1.0
        if problem.best(samples) is not samples[-1] or kept < DOUBTED:
            radius = radius / 2
        elif kept > TRUSTED:
            radius = min(2 * radius, 1.0)
        if radius < LEAST_RADIUS:
            return Found(problem.best(samples), tuple(samples), "converged")
    return Found(problem.best(samples), tuple(samples), "passes")


def _with_slopes(problem: Problem, samples: list[Sample]) -> Sample:
    """Return the best sample so far, and take its slopes where they were not taken yet."""
    best = problem.best(samples)
    if best.slopes is None:
        index = next(i for i, s in enumerate(samples) if s is best)
        samples[index] = best = problem.measure(best.omega, slopes=True)
    return best


def _beginnings(samples: Sequence[Sample], best: Sample) -> list[Vector]:
    """Return where the inner descents begin: the best sample, the others, and points around it."""
    around = np.random.default_rng(len(samples)).normal(0, 0.3, (4, len(best.omega)))
    return [best.omega, *(s.omega for s in samples[-4:] if s is not best), *(best.omega + around)]


def _step(
    problem: Problem,
    surrogate: Surrogate,
    box: tuple[Vector, Vector],
    beginnings: Sequence[Vector],
    best: Sample,
) -> tuple[Vector, float]:
    """Return where the models promise the lowest score within a box, and how much lower than the best it is."""
    there = problem.clip(promised_best(problem, surrogate, box, beginnings))
    return there, problem.score(best) - promised(problem, surrogate, there)


def _sure(
    problem: Problem, surrogate: Surrogate, best: Sample, there: Vector, box: tuple[Vector, Vector]
) -> tuple[Vector, Vector]:
    """Return the part of a box where only those ω differ from the best that promise more than they are unsure of."""
    sure = np.zeros(problem.size, np.bool_)
    for index, move in enumerate(np.diag(there - best.omega)):
        promise = problem.score(best) - promised(problem, surrogate, best.omega + move)
        sure[index] = promise > problem.step_stderr(best, move)
    return np.where(sure, box[0], best.omega), np.where(sure, box[1], best.omega)


def _worth_it(problem: Problem, best: Sample, there: Vector, promise: float) -> bool:
    # A best that passes a limit has to be left, whatever the score does.
    if not problem.objective.keeps_limits(problem.losses(best)):
        return True
    noise = problem.step_stderr(best, there - best.omega)
    floor = NEGLIGIBLE * max(abs(problem.score(best)), 1e-3)
    return promise > max(0.5 * noise if np.isfinite(noise) else 0.0, floor)


def _seen(samples: Sequence[Sample], omega: Vector) -> bool:
    return any(np.array_equal(s.omega, omega) for s in samples)


def coordinate_search(problem: Problem, known: Sequence[Sample]) -> Found:
    """Change one ω at a time, up and down by a step that is halved when no change helps (compass search)."""
    samples, width = list(known), problem.upper - problem.lower
    share = FIRST_STEP
    while share >= LAST_STEP:
        before = problem.best(samples)
        for index, sign in itertools.product(range(problem.size), (1, -1)):
            step = np.zeros(problem.size)
            step[index] = sign * share * width[index]
            there = problem.clip(problem.best(samples).omega + step)
            if not _seen(samples, there):
                samples.append(problem.measure(there, slopes=False))
        if problem.best(samples) is before:
            share /= 2
    return Found(problem.best(samples), tuple(samples), "converged")


def grid_search(problem: Problem, known: Sequence[Sample]) -> Found:
    """Measure every combination of evenly spaced ω: as many levels as stay within 256 candidates."""
    levels = grid_levels(problem.size)
    axes = [
        np.round(np.linspace(low, high, levels), DECIMALS)
        for low, high in zip(problem.lower, problem.upper, strict=True)
    ]
    samples = list(known)
    for combination in itertools.product(*axes):
        there = problem.clip(np.array(combination))
        if not _seen(samples, there):
            samples.append(problem.measure(there, slopes=False))
    return Found(problem.best(samples), tuple(samples), "passes")


def grid_levels(size: int) -> int:
    """Return how many levels of each of `size` ω a grid has; below 2 there is none."""
    return next((n for n in range(7, 1, -1) if n**size <= MOST_GRID), 1)


def single_search(problem: Problem, known: Sequence[Sample]) -> Found:
    """Look for the one ω that does best while all others are 0: along each axis by gradients, then the best of them."""
    found = [_along(problem, axis, known) for axis in range(problem.size)]
    best = problem.best([one.best for one in found])
    winner = next(one for one in found if one.best is best)
    taken = sorted(
        (s for one in found for s in one.samples), key=lambda s: s is not best and s.slopes is None
    )
    samples = {sample.omega.tobytes(): sample for sample in reversed(taken)}
    return replace(winner, samples=tuple(reversed(samples.values())))


def _along(problem: Problem, axis: int, known: Sequence[Sample]) -> Found:
    others = np.arange(problem.size) != axis
    line = replace(
        problem, lower=np.where(others, 0.0, problem.lower), upper=np.where(others, 0.0, problem.upper)
    )
    on_it = [s for s in known if np.array_equal(line.clip(s.omega), s.omega)]
    alone = line.clip((~others).astype(np.float64))
    found = gradient_search(line, on_it or [problem.measure(alone, slopes=True)])
    return replace(found, box=(line.lower, line.upper))


def softmax_start(losses: Vector) -> Vector:
    """Return the ω of LM-Cocktail (arXiv 2311.13534): softmax of minus the loss over the temperature, 1 nat.

    Args:
        losses: Mean loss over all datasets of each vector alone, [vectors].
    """
    weights = np.exp(-(losses - losses.min()) / TEMPERATURE)
    return np.asarray(weights / weights.sum())


SEARCHES: dict[str, Callable[[Problem, Sequence[Sample]], Found]] = {
    "grid": grid_search,
    "coordinate": coordinate_search,
    "gradient": gradient_search,
    "single": single_search,
}
