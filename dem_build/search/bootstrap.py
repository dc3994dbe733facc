"""How sure the tuned ω are: where the search's models are lowest, refitted to resampled rows or from other starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, stdtrit  # scipy.stats takes a third of a second to import

from dem_build.search.acquisition import promised, promised_best
from dem_build.search.problem import mean_losses
from dem_build.search.surrogate import Surrogate, observations
from dem_build.search.trust_region import nearest_with_slopes

if TYPE_CHECKING:
    from collections.abc import Callable

    from dem_build.search.problem import Found, Sample, SearchProblem, Vector

# Each draw is a descent of the models or several. Of 200 the expanded percentiles of 16 blocks, 1.4 and 98.6 %, lie
# between the third and the fourth draw from either end: of fewer they would be the outermost ones.
DRAWS = 200
SEED = 0  # the same draws every time: a key names what a search finds, intervals included (decision 0032)
COVERED = 0.95
REACH = 0.25  # of the bounds' width: what is expected further than that from every sample is a guess


@dataclass(frozen=True)
class Intervals:
    """95 % intervals over resampled rows.

    Attributes:
        low: Of each ω, [ω].
        high: Of each ω, [ω].
        over_uniform: Of how much lower the score is than at equal ω; positive: better than equal ω.
    """

    low: Vector
    high: Vector
    over_uniform: tuple[float, float] | None


def intervals(problem: SearchProblem, found: Found, uniform: Sample | None) -> Intervals:
    """Intervals by a percentile bootstrap over blocks: of how far the models' lowest place moves, around `best`.

    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. What is resampled are blocks and
    not rows, as derivatives are known of blocks alone.

    Where the search ended in several basins, the lowest place may be in another one for other rows: an interval then
    reaches from one to the other.

    Args:
        problem: What was searched.
        found: What came of it.
        uniform: The sample of equal ω; None where none was taken.
    """
    draws = np.random.default_rng(SEED)
    surrogate = Surrogate.fit(problem, found.samples)
    box = found.box or (problem.lower, problem.upper)
    # One for each basin: a descent of the models that begins in one may end in another.
    places = [promised_best(problem, surrogate, box, [end.omega]) for end in found.ends or (found.best,)]
    # How far the lowest place moves is counted from where the models have it, not from `best`: what a coarse search, a
    # limit or an early end leaves between the two is no matter of the rows, and shifts no interval.
    lowest = places[0]
    moves, leads = [], []
    for _ in range(DRAWS):
        drawn, pick = _resampled(problem, draws)
        samples = [pick(s) for s in found.samples]
        # At the ℓ of all rows, whose factor is there: what another ℓ would change is in no interval.
        refitted = surrogate.refit(observations(drawn, samples))
        moves.append(promised_best(drawn, refitted, box, places) - lowest)
        # Both scores on the rows of one draw: what is hard or easy in these is in both, and takes itself away.
        if uniform is not None:
            leads.append(drawn.score(pick(uniform)) - drawn.score(pick(found.best)))
    # With few blocks n plain percentiles lie too close. They are expanded: of Student's t with n - 1 degrees of
    # freedom, and by n / (n - 1), which resampling's variance is too small by (T. C. Hesterberg, What Teachers Should
    # Know About the Bootstrap, 2015, section 5.1). The judge of the fewest blocks is the one whose error is known
    # least.
    filled = np.count_nonzero(problem.tokens[problem.objective.counted], axis=1)
    blocks = max(int(filled.min()), 2)
    below = 100 * float(ndtr(-np.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, (1 + COVERED) / 2)))
    covered = below, 100 - below
    low, high = np.clip(found.best.omega + np.percentile(np.array(moves), covered, axis=0), *box)
    lead = tuple(float(x) for x in np.percentile(leads, covered)) if leads else None
    # At a bound all draws may move one way; an interval has the ω that it is printed with all the same.
    return Intervals(
        np.minimum(low, found.best.omega),
        np.maximum(high, found.best.omega),
        None if lead is None else (lead[0], lead[1]),
    )


def spread(problem: SearchProblem, found: Found) -> float:
    """How far from what was found, in one ω, another place is expected to be as good: within half its noise."""
    best = found.best
    # Without slopes nothing is known of the noise, and no place is named.
    if all(sample.slopes is None for sample in found.samples):
        return 0.0
    sloped = nearest_with_slopes(problem, found.samples, best)
    # A descent begins at each sample whose slopes were taken, and stays near it: what is expected around any other is a
    # guess, and so is a place that is expected to be better by more than the noise, where the search did not go.
    surrogate = Surrogate.fit(problem, found.samples)
    around = [sample.omega for sample in found.samples if sample.slopes is not None]
    ends = [promised_best(problem, surrogate, problem.near(omega, REACH), [omega]) for omega in around]
    score = promised(problem, surrogate, best.omega)
    equal = [
        end
        for end in ends
        if problem.objective.keeps_limits(surrogate.losses(end))
        and abs(promised(problem, surrogate, end) - score)
        <= 0.5 * problem.step_stderr(sloped, end - best.omega)
    ]
    return max((float(np.abs(end - best.omega).max()) for end in equal), default=0.0)


def _resampled(
    problem: SearchProblem, draws: np.random.Generator
) -> tuple[SearchProblem, Callable[[Sample], Sample]]:
    """The problem on blocks of each judge that are drawn with replacement, and what takes the same of a sample."""
    filled = np.count_nonzero(problem.tokens, axis=1)
    index = (draws.random(problem.tokens.shape) * filled[:, None]).astype(np.intp)
    # A judge of fewer blocks than others draws as many as it has; its other places stay empty.
    empty = np.arange(problem.tokens.shape[1])[None, :] >= filled[:, None]
    index = np.where(empty, np.arange(problem.tokens.shape[1])[None, :], index).astype(np.intp)
    tokens = np.take_along_axis(problem.tokens, index, axis=1)
    drawn = replace(problem, tokens=tokens)
    if problem.base_nll is not None:
        base = mean_losses(np.take_along_axis(problem.base_nll, index, axis=1), tokens)
        drawn = replace(drawn, objective=replace(problem.objective, base=base))

    def pick(sample: Sample) -> Sample:
        nll, slopes = np.take_along_axis(sample.nll, index, axis=1), sample.slopes
        if slopes is not None:
            slopes = np.take_along_axis(slopes, index[:, :, None], axis=1)
        return replace(sample, nll=nll, slopes=slopes)

    return drawn, pick
