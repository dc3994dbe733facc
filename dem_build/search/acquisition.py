"""Where the models of the losses lead a search: to the lowest score they promise, or the highest expected improvement.

A surrogate costs next to nothing beside a pass over rows, so it is searched as thoroughly as one likes. Its lowest
place within a region is where a descent steps. Elsewhere it is asked for the expected improvement (D. R. Jones, M.
Schonlau and W. J. Welch, Efficient Global Optimization of Expensive Black-Box Functions, J. Global Optimization 13,
1998, section 4), times the probability that all limits are kept (M. Schonlau, W. J. Welch and D. R. Jones, Global
versus Local Search in Constrained Optimization of Computer Models, 1998). That is high where much is expected and where
little is known: a descent sees the first alone, and ends where it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dem_build.search.problem import Sample, SearchProblem, Vector
    from dem_build.search.surrogate import Surrogate

ITERATIONS = 60
# About its minimum a score of curvature 1 rises by this where ω is off by 4.5e-5, half of the last decimal of an ω.
PRECISION = 1e-9
SPARE = 0.02  # of a limit: what a step leaves of it
LEAST_SPARE = 1e-4  # of the base's loss, where a limit is about 0

POINTS = 1024
NEAR_POINTS = 128  # around the best of them, nearer and nearer
REACHES = (0.1, 0.05, 0.025)  # of the bounds' width
UNSEEN = 0.1  # of the bounds' width: how far from all samples a place is that nobody has looked at
LIKELY = 0.5  # that limits are kept, where that is asked of a place
SEED = 1  # the same places every time: what is found follows from what was measured alone
LEAST_DOUBT = 1e-12
SLACK = 0.1  # of what the lowest loss of a judge gains: how much lower still its losses may be expected
LEAST_LIKELY = 3.0  # standard deviations: how far below what is expected losses may be


def promised(problem: SearchProblem, surrogate: Surrogate, omega: Vector) -> float:
    """The score that a surrogate expects at `omega`."""
    return problem.objective.score(surrogate.losses(omega)) + problem.penalty(omega)


def score_doubt(problem: SearchProblem, surrogate: Surrogate, omega: Vector) -> float:
    """The standard deviation of that score, to first order in the losses."""
    losses, doubt = surrogate.among(omega[None])
    return float(_score_errors(problem, losses, doubt)[0])


def promised_best(
    problem: SearchProblem, surrogate: Surrogate, box: tuple[Vector, Vector], starts: Iterable[Vector]
) -> Vector:
    """The ω of the lowest expected score within a box, that is expected to keep all limits.

    Args:
        problem: Objective, limits and penalty.
        surrogate: Expected losses and slopes.
        box: Lowest and highest ω, [ω] each.
        starts: Where the descents begin; the best end counts.
    """
    ends = [_descend(problem, surrogate, box, np.clip(start, *box)) for start in starts]
    excess = [float(max(problem.objective.excess(surrogate.losses(end)).max(), 0.0)) for end in ends]
    # Where no end keeps the limits, those count that pass them least: that way back they can be kept.
    least = min(excess)
    kept = [end for end, over in zip(ends, excess, strict=True) if over <= max(least, 0.0)]
    return min(kept, key=lambda omega: promised(problem, surrogate, omega))


def _descend(
    problem: SearchProblem, surrogate: Surrogate, box: tuple[Vector, Vector], start: Vector
) -> Vector:
    """The end of a descent by sequential quadratic programming, within a box and beside the limits.

    SLSQP (D. Kraft, A Software Package for Sequential Quadratic Programming, DFVLR-FB 88-28, 1988; scipy's): it takes
    bounds and limits that are not linear, and gradients, which the models give for next to nothing.
    """
    # The worst dataset's score has a kink where another one becomes the worst, which SLSQP cannot descend. Instead it
    # looks for the least t above every dataset's score, which is smooth in ω and t: the problem's epigraph form (S.
    # Boyd and L. Vandenberghe, Convex Optimization, 2004, section 4.1.3).
    worst = problem.objective.kind == "worst"
    bounds = list(zip(*box, strict=True)) + [(None, None)] * worst

    def slope(omega: Vector) -> Vector:
        weight = problem.objective.slope(surrogate.losses(omega))
        return np.asarray(weight @ surrogate.slopes(omega) + _pull(problem, omega))

    result = minimize(
        (lambda x: x[-1] + problem.penalty(x[:-1])) if worst else (lambda x: promised(problem, surrogate, x)),
        np.append(start, promised(problem, surrogate, start)) if worst else start,
        jac=(lambda x: np.append(_pull(problem, x[:-1]), 1.0)) if worst else slope,
        method="SLSQP",
        bounds=bounds,
        constraints=_constraints(problem, surrogate, worst=worst),
        options={"maxiter": ITERATIONS, "ftol": PRECISION},
    )
    # A line search that fails may leave what is no number, and a last digit may be beyond the box.
    found: Vector = result.x[:-1] if worst else result.x
    return np.clip(np.where(np.isfinite(found), found, start), *box)


def _pull(problem: SearchProblem, omega: Vector) -> Vector:
    """The derivative of `SearchProblem.penalty`, [ω]."""
    if problem.center is None:
        return np.zeros_like(omega)
    return np.asarray(2 * problem.pull * (omega - problem.center) / len(omega))


def _constraints(problem: SearchProblem, surrogate: Surrogate, *, worst: bool) -> list[dict[str, Any]]:
    """What SLSQP keeps at or above 0: room under each limit, and t above each dataset's score."""
    objective, size = problem.objective, problem.size
    limited = np.isfinite(objective.limit)
    constraints: list[dict[str, Any]] = []
    if limited.any():
        # The models err, and ω are rounded before they are measured: a step that aims at the limit itself as often as
        # not ends beyond it, and its pass is spent for nothing.
        spare = np.maximum(SPARE * np.abs(objective.limit), LEAST_SPARE * objective.base)[limited]
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda x: -objective.excess(surrogate.losses(x[:size]))[limited] - spare,
                # t, where there is one, is under no limit: a column of 0.
                "jac": lambda x: np.pad(-surrogate.slopes(x[:size])[limited], ((0, 0), (0, len(x) - size))),
            }
        )
    if worst:
        counted = objective.counted
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda x: x[-1] + objective.gains(surrogate.losses(x[:size]))[counted],
                "jac": lambda x: np.hstack(
                    [
                        (-surrogate.slopes(x[:size]) / objective.scale[:, None])[counted],
                        np.ones((int(counted.sum()), 1)),
                    ]
                ),
            }
        )
    return constraints


def most_expected(
    problem: SearchProblem, surrogate: Surrogate, samples: Sequence[Sample], *, anywhere: bool
) -> tuple[Vector, float]:
    """The ω of the highest expected improvement over the best sample, and that improvement of the score.

    Args:
        problem: Objective, limits, bounds and penalty.
        surrogate: Of all samples.
        samples: All of them.
        anywhere: Whether it begins with places anywhere within the bounds; else where most good ones are.
    """
    draws = np.random.default_rng(SEED)
    if anywhere:
        points = draws.uniform(problem.lower, problem.upper, (POINTS, problem.size))
    else:
        points = _between(problem, draws)
    expected = expected_improvement(problem, surrogate, samples, points)
    at, most = points[expected.argmax()], float(expected.max())
    # The improvement is flat and has many peaks, on which a descent would end anywhere: it is drawn, nearer and nearer.
    for reach in REACHES:
        move = reach * (problem.upper - problem.lower) * draws.normal(size=(NEAR_POINTS, problem.size))
        points = np.clip(at + move, problem.lower, problem.upper)
        expected = expected_improvement(problem, surrogate, samples, points)
        if expected.max() > most:
            at, most = points[expected.argmax()], float(expected.max())
    return problem.clip(at), most


def most_promised(problem: SearchProblem, surrogate: Surrogate, samples: Sequence[Sample]) -> Vector | None:
    """The ω of the lowest promised score where no sample is near; None where all is near to one."""
    points = _between(problem, np.random.default_rng(SEED))
    width = np.maximum(problem.upper - problem.lower, np.finfo(np.float64).tiny)
    near = np.array([np.abs((points - s.omega) / width).max(axis=1) for s in samples]).min(axis=0) < UNSEEN
    losses, doubt = surrogate.among(points)
    scores = np.array([problem.objective.score(at) for at in losses]) + [problem.penalty(at) for at in points]
    scores = np.where(near | (_allowed(problem, losses, doubt) < LIKELY), np.inf, scores)
    return problem.clip(points[scores.argmin()]) if np.isfinite(scores).any() else None


def _between(problem: SearchProblem, draws: np.random.Generator) -> Vector:
    """Shares of each ω's upper bound that add up to a half to one and a half, [points, ω]."""
    # Models that are worth a look have a part of each vector; of many ω, hardly a point of the whole box is such a one:
    # between 0 and 1 they sum to half the number of vectors.
    nothing = np.clip(0.0, problem.lower, problem.upper)
    # With all parameters 1 a Dirichlet distribution is uniform over the shares that sum to 1.
    shares = draws.dirichlet(np.ones(problem.size), POINTS)
    shares *= draws.uniform(0.5, 1.5, (POINTS, 1))
    return np.asarray(np.clip(nothing + shares * (problem.upper - nothing), problem.lower, problem.upper))


def expected_improvement(
    problem: SearchProblem, surrogate: Surrogate, samples: Sequence[Sample], points: Vector
) -> Vector:
    """By how much each of some ω, [points, ω], is expected to be better than the best sample, [points].

    With a score s that is normal of mean m and standard deviation e, cut off at its least possible value l, and the
    best score b so far: E[max(b - s, 0)] - E[max(l - s, 0)], where E[max(c - s, 0)] = (c - m) Φ((c - m) / e) + e φ((c -
    m) / e) (Jones, Schonlau and Welch, equation 15, for c = b). While no sample keeps all limits, only how probable it
    is that they are kept counts.
    """
    objective, best = problem.objective, problem.best(samples)
    losses, doubt = surrogate.among(points)
    allowed, penalties = _allowed(problem, losses, doubt), np.array([problem.penalty(at) for at in points])
    scores = np.array([objective.score(at) for at in losses]) + penalties
    # Times the spread of all points' scores: those who ask hold it against a share of what was gained, in its units.
    if not objective.keeps_limits(problem.losses(best)):
        return np.asarray(allowed * np.ptp(scores))
    error = np.maximum(_score_errors(problem, losses, doubt), LEAST_DOUBT)
    # Models that know little of a place promise a gain there that no vector has. So a loss is at most three standard
    # deviations below what is expected, and hardly below the lowest of its judge so far.
    lowest = np.min([problem.losses(sample) for sample in samples], axis=0)
    floor = lowest - SLACK * np.maximum(objective.base - lowest, 0)
    within = np.minimum(losses, np.maximum(losses - LEAST_LIKELY * doubt, floor))
    least = np.array([objective.score(at) for at in within]) + penalties
    expected = _shortfall(problem.score(best) - scores, error) - _shortfall(least - scores, error)
    return np.asarray(allowed * np.maximum(expected, 0.0))


def _score_errors(problem: SearchProblem, losses: Vector, doubt: Vector) -> Vector:
    """The score's error at several ω, to first order in the losses, [points]."""
    # The models of different judges err apart from each other. Of the worst dataset's score it is that dataset's error
    # alone, which is too little where another one is about as bad.
    slopes = np.array([problem.objective.slope(at) for at in losses])
    return np.asarray(np.sqrt(((slopes * doubt) ** 2).sum(axis=1)))


def _shortfall(limit: Vector, error: Vector) -> Vector:
    """E[max(limit - x, 0)] for normal x of mean 0 and standard deviation `error`."""
    z = limit / error
    return np.asarray(limit * ndtr(z) + error * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def _allowed(problem: SearchProblem, losses: Vector, doubt: Vector) -> Vector:
    """The probability that all limits are kept, [points]."""
    limited = np.isfinite(problem.objective.limit)
    # A product, as the models of different judges err apart from each other (Schonlau, Welch and Jones 1998). Where a
    # sample lies there is no doubt, and no quotient either.
    room = (problem.objective.base + problem.objective.limit - losses)[:, limited]
    return np.asarray(ndtr(room / np.maximum(doubt[:, limited], LEAST_DOUBT)).prod(axis=1))
