"""The searches for ω: a grid, one coordinate after another, along the gradients of all losses, one vector alone.

The gradient search takes, in one forward and backward pass over a dataset, the derivative of its loss to all ω at
once. It keeps the losses of each dataset apart, models them (`surrogate`), and goes where the models promise the
lowest score (`trust_region`). That ends in the basin that it began in: so every search looks elsewhere afterwards,
where the same models expect most (`acquisition`). What was tried is in decision 0033.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dem_build.search.acquisition import most_expected, most_promised, promised, promised_best, score_doubt
from dem_build.search.problem import DECIMALS, Found
from dem_build.search.surrogate import Surrogate
from dem_build.search.trust_region import (
    APART,
    NEARLY,
    RADIUS,
    WORTH_A_LOOK,
    descend,
    distance,
    hopeless,
    seen,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dem_build.search.problem import Sample, SearchProblem, Vector

MOST_STEPS = 16
# At other places than where a descent went, of a search with gradients. On made-up losses (`bench/basins.py`) one
# descent finds the best basin in 0.875 of them, with up to six looks in 0.94 to 0.95, with nine in 0.96 to 0.97.
MOST_LOOKS = 9
MOST_CHEAP_LOOKS = 8  # the same without
MOST_ELSEWHERE = 8  # forward-equivalents of looks that found no better, after which none is begun
MOST_CHEAP_ELSEWHERE = 30  # the same of a search without derivatives, whose descents take more passes
STEPS_FOLLOWED = 4  # by losses alone, from a place that was looked at
WORTH_FOLLOWING = 5e-3  # of what the best gains: what such a step is promised to bring at least
CLOSE = 0.01  # of the same: what is no further behind the best is worth derivatives
# How far behind the best a place may be promised that nobody has looked at: a share of what the best gains, and as many
# standard deviations. Of 470 such looks on made-up losses 3 found a better ω, half of all were promised 7 % behind the
# best within half a percent, and were.
PROMISED, DOUBTS = 0.05, 3.0
STEPS_ELSEWHERE = 6  # of a descent that began at one of them
KINDS = ("between", "promised", "anywhere")  # of places that are looked at, in turn
OTHERS = 5  # samples around which another basin is sought, the best ones
MOST_GRID = 256  # candidates: 7 levels of one or two ω, 6 of three, 4 of four, 3 of five, 2 of up to eight
FIRST_STEP, LAST_STEP = 0.25, 0.02  # of the coordinate search, as a share of the bounds' width
TEMPERATURE = 1.0  # nats


def search(name: str, problem: SearchProblem, known: Sequence[Sample]) -> Found:
    """Search, from what is known already: at least one sample.

    What is found follows from the problem, `known` and what is measured: nothing is drawn anew from run to run.

    Args:
        name: `gradient`, `coordinate`, `grid` or `single`.
        problem: What to search.
        known: Samples that count like those which the search takes itself.
    """
    return SEARCHES[name](problem, known)


def gradient_search(
    problem: SearchProblem, known: Sequence[Sample], most: int = MOST_STEPS, looks: int = 0
) -> Found:
    """Step to where the models of all losses promise the lowest score, in a region that grows and shrinks.

    Ends where a step promises less than half its own standard error over the data (paired: both ends judge the same
    rows), or nothing worth a pass; and where no single ω, moved alone, promises more than its own standard error: what
    one ω is unsure of must not hide what another is sure of.

    Then it looks where the models know least and promise most, see `acquisition`, and descends from there too, as long
    as that may end as low.

    Args:
        problem: What to search.
        known: Samples that are known already.
        most: Most steps of the first descent.
        looks: Most looks elsewhere.
    """
    samples = list(known)
    first = descend(problem, samples, list(samples), most)
    assert first is not None

    def from_there(there: Vector) -> tuple[Sample, str] | None:
        samples.append(problem.measure(there, slopes=False))
        return _follow(problem, samples, samples[-1:])

    kinds = (KINDS * looks)[:looks]
    return _look_elsewhere(problem, samples, [first], from_there, (kinds, _cost(samples) + MOST_ELSEWHERE))


def _follow(problem: SearchProblem, samples: list[Sample], path: list[Sample]) -> tuple[Sample, str] | None:
    """Go on from a place elsewhere by losses alone, and with derivatives once it is about as good as the best.

    The end and why it ended, as `descend` of one that is not the first; None where it was given up.
    """
    # Most places turn out to be worse than they were expected to be: one forward pass tells that, a third of the cost
    # of one with derivatives, and the models of all samples know the way on.
    radius, most = RADIUS, len(path) + STEPS_FOLLOWED
    while True:
        surrogate, here, best = Surrogate.fit(problem, samples), problem.best(path), problem.best(samples)
        if hopeless(problem, surrogate, samples, here, 2 * radius):
            return None
        gained = problem.gained(samples)
        if here is best or problem.score(here) - problem.score(best) <= CLOSE * gained:
            return descend(problem, samples, path, STEPS_ELSEWHERE, alone=False)
        there, promise = step(problem, surrogate, problem.near(here.omega, radius), [here.omega], here)
        if promise <= WORTH_FOLLOWING * gained or seen(samples, there) or len(path) >= most:
            return here, "converged"
        path.append(problem.measure(there, slopes=False))
        samples.append(path[-1])
        if problem.best(path) is here:
            radius /= 2


def _cost(samples: Sequence[Sample]) -> int:
    """What some samples cost, in passes forward: a backward pass counts two."""
    # It has two products for each of the forward pass: one to the inputs' gradient, one to the weights'.
    return sum(1 if sample.slopes is None else 3 for sample in samples)


def _look_elsewhere(
    problem: SearchProblem,
    samples: list[Sample],
    ended: list[tuple[Sample, str]],
    from_there: Callable[[Vector], tuple[Sample, str] | None],
    limits: tuple[Sequence[str], int],
) -> Found:
    """Look at the places of which most is expected or promised, while that is worth it; return the best of all ends.

    Args:
        problem: What is searched.
        samples: All of them; `from_there` appends its own.
        ended: Where descents ended so far, and why; the first one's first.
        from_there: Looks at a place and goes on from it: its end and why, None where it was given up.
        limits: The kind of each look, another one's where nothing of that kind is worth it, see `_place`; and the
            cost of all samples at which no further one is begun, that of looks which found a better ω not counted.
    """
    kinds, most = limits
    # The kinds take turns, as each sees what another does not: sums of whole vectors, corners, and what the models are
    # wrongly sure of.
    for look in range(len(kinds)):
        if _cost(samples) >= most:
            break
        there = _place(problem, samples, dict.fromkeys((*kinds[look:], *kinds)))
        if there is None:
            break
        best, before = problem.best(samples), _cost(samples)
        if (end := from_there(there)) is not None:
            ended.append(end)
        # What found a better ω was no vain look, so that those which are left may follow it up.
        if problem.best(samples) is not best:
            most += _cost(samples) - before
    other = _other_basin(problem, samples) if kinds else None
    if other is not None and (end := from_there(other)) is not None:
        ended.append(end)
    best = problem.best(samples)
    reason = next((why for end, why in ended if end is best), ended[0][1])
    return Found(
        best, tuple(samples), reason, ends=_apart(problem, samples, [best, *(end for end, _ in ended)])
    )


def _place(problem: SearchProblem, samples: Sequence[Sample], kinds: Iterable[str]) -> Vector | None:
    """The first place of some kinds that is worth a look; None where all is known well enough.

    Args:
        problem: What is searched.
        samples: All of them.
        kinds: `between` and `anywhere`, of the highest expected improvement, see `most_expected`; `promised`, of the
            lowest promise where no sample is near, as models that are surer than they should be expect nothing.
    """
    surrogate, best, gained = Surrogate.fit(problem, samples), problem.best(samples), problem.gained(samples)
    for kind in kinds:
        if kind == "promised":
            there = most_promised(problem, surrogate, samples)
            worth = there is not None and promised(problem, surrogate, there) <= problem.score(best) + (
                PROMISED * gained + DOUBTS * score_doubt(problem, surrogate, there)
            )
        else:
            there, expected = most_expected(problem, surrogate, samples, anywhere=kind == "anywhere")
            worth = expected > WORTH_A_LOOK * gained
        if there is not None and worth and not seen(samples, there):
            return there
    return None


def _other_basin(problem: SearchProblem, samples: Sequence[Sample]) -> Vector | None:
    """Where the models promise another basin to be nearly as good as the best one, if nobody has looked there."""
    # It is no improvement, so no look was spent on it; but who reads ω should know that others do nearly as well.
    surrogate, best = Surrogate.fit(problem, samples), problem.best(samples)
    apart = [s for s in samples if distance(problem, s.omega, best.omega) > APART]
    around = sorted(apart, key=problem.score)[:OTHERS]
    found = [promised_best(problem, surrogate, problem.near(s.omega, RADIUS), [s.omega]) for s in around]
    least = problem.score(best) + NEARLY * problem.gained(samples)
    new = [
        there
        for there in map(problem.clip, found)
        if distance(problem, there, best.omega) > APART
        and promised(problem, surrogate, there) <= least
        and problem.objective.keeps_limits(surrogate.losses(there))
        and _has_ridge(problem, surrogate, there, best.omega)
        and not seen(samples, there)
    ]
    return min(new, key=lambda there: promised(problem, surrogate, there), default=None)


def _has_ridge(problem: SearchProblem, surrogate: Surrogate, there: Vector, best: Vector) -> bool:
    """Whether the models promise a ridge on the way from one ω to the best: without one, both are of one basin."""
    # On the straight way alone: one that bends around the ridge, and a ridge between these three points, are not seen.
    way = [promised(problem, surrogate, there + share * (best - there)) for share in (0.25, 0.5, 0.75)]
    return max(way) > max(promised(problem, surrogate, at) for at in (there, best))


def _apart(problem: SearchProblem, samples: Sequence[Sample], ends: Sequence[Sample]) -> tuple[Sample, ...]:
    """The best of the ends of each basin, the first one's own first, the others from the best one on."""
    surrogate, found = Surrogate.fit(problem, samples), list(ends[:1])
    # Distance alone does not tell basins apart: one that was followed by losses alone may lie on the way to another.
    for end in sorted(ends[1:], key=problem.score):
        if all(
            distance(problem, end.omega, one.omega) > APART
            and _has_ridge(problem, surrogate, end.omega, one.omega)
            for one in found
        ):
            found.append(end)
    return tuple(found)


def coordinate_search(problem: SearchProblem, known: Sequence[Sample]) -> Found:
    """Change one ω at a time by a step that is halved when no change helps, and look elsewhere: losses alone."""
    return _by_losses(problem, list(known), FIRST_STEP)


def _by_losses(problem: SearchProblem, samples: list[Sample], share: float) -> Found:
    """Go on from the best sample by single coordinates, then look elsewhere, all by losses alone.

    Args:
        problem: What is searched.
        samples: What is known; at least one.
        share: The first step, as a share of the bounds' width.
    """
    end = _compass(problem, samples, list(samples), share)
    assert end is not None

    def from_there(there: Vector) -> tuple[Sample, str] | None:
        samples.append(problem.measure(there, slopes=False))
        end = _compass(problem, samples, samples[-1:], FIRST_STEP / 2, alone=False)
        return None if end is None else (end, "converged")

    # Without derivatives the models are so unsure of most places that expected improvement leads to the unsurest: half
    # of the looks go where they promise most.
    ended, most = [(end, "converged")], _cost(samples) + MOST_CHEAP_ELSEWHERE
    for _ in range(MOST_CHEAP_LOOKS // 2):
        if _cost(samples) >= most:
            break
        there = most_promised(problem, Surrogate.fit(problem, samples), samples)
        if there is not None and not seen(samples, there) and (other := from_there(there)) is not None:
            ended.append(other)
    kinds = ("between", "anywhere") * (MOST_CHEAP_LOOKS // 4)
    return _look_elsewhere(problem, samples, ended, from_there, (kinds, most))


def _compass(
    problem: SearchProblem, samples: list[Sample], path: list[Sample], share: float, *, alone: bool = True
) -> Sample | None:
    """Where a compass search from the best of a path ends; what it takes is appended to both lists.

    Each ω in turn goes up and down by a step that is halved when no change helps (T. G. Kolda, R. M. Lewis and V.
    Torczon, Optimization by Direct Search, SIAM Review 45, 2003). One that is not alone is given up, and None returned,
    where it is promised to end clearly worse than the best.
    """
    width = problem.upper - problem.lower
    while share >= LAST_STEP:
        before = problem.best(path)
        if not alone and hopeless(problem, Surrogate.fit(problem, samples), samples, before, 2 * share):
            return None
        for index, sign in itertools.product(range(problem.size), (1, -1)):
            step = np.zeros(problem.size)
            step[index] = sign * share * width[index]
            there = problem.clip(problem.best(path).omega + step)
            if not seen(samples, there):
                samples.append(problem.measure(there, slopes=False))
                path.append(samples[-1])
        if problem.best(path) is before:
            share /= 2
    return problem.best(path)


def grid_search(problem: SearchProblem, known: Sequence[Sample]) -> Found:
    """Measure every combination of evenly spaced ω, at most 256, and go on from the best by smaller steps."""
    # A grid is too coarse to end on: between its levels the best basin may look worse than another one.
    levels = grid_levels(problem.size)
    axes = [
        np.round(np.linspace(low, high, levels), DECIMALS)
        for low, high in zip(problem.lower, problem.upper, strict=True)
    ]
    samples = list(known)
    for combination in itertools.product(*axes):
        there = problem.clip(np.array(combination))
        if not seen(samples, there):
            samples.append(problem.measure(there, slopes=False))
    # Half a level: the best point's neighbours are known.
    return _by_losses(problem, samples, 0.5 / max(levels - 1, 1))


def grid_levels(size: int) -> int:
    """How many levels of each of `size` ω a grid has; below 2 there is none."""
    return next((n for n in range(7, 1, -1) if n**size <= MOST_GRID), 1)


def single_search(problem: SearchProblem, known: Sequence[Sample]) -> Found:
    """Look for the one ω that does best while all others are 0: along each axis by gradients, then the best of them."""
    found = [_along(problem, axis, known) for axis in range(problem.size)]
    best = problem.best([one.best for one in found])
    # Axes meet at 0, which each has taken: one sample of each ω stays, the best itself or one that has slopes.
    winner = next(one for one in found if one.best is best)
    taken = sorted(
        (s for one in found for s in one.samples), key=lambda s: s is not best and s.slopes is None
    )
    samples = {sample.omega.tobytes(): sample for sample in reversed(taken)}
    return replace(winner, samples=tuple(reversed(samples.values())))


def _along(problem: SearchProblem, axis: int, known: Sequence[Sample]) -> Found:
    others = np.arange(problem.size) != axis
    line = replace(
        problem, lower=np.where(others, 0.0, problem.lower), upper=np.where(others, 0.0, problem.upper)
    )
    on_it = [s for s in known if np.array_equal(line.clip(s.omega), s.omega)]
    alone = line.clip((~others).astype(np.float64))
    found = gradient_search(line, on_it or [problem.measure(alone, slopes=True)], looks=1)
    return replace(found, box=(line.lower, line.upper))


def softmax_start(losses: Vector) -> Vector:
    """The ω of LM-Cocktail (arXiv 2311.13534): softmax of minus the loss over the temperature, 1 nat.

    Args:
        losses: Mean loss over all datasets of each vector alone, [vectors].
    """
    weights = np.exp(-(losses - losses.min()) / TEMPERATURE)
    return np.asarray(weights / weights.sum())


SEARCHES: dict[str, Callable[[SearchProblem, Sequence[Sample]], Found]] = {
    "grid": grid_search,
    "coordinate": coordinate_search,
    "gradient": partial(gradient_search, looks=MOST_LOOKS),
    "single": single_search,
}
