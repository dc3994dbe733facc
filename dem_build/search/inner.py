"""The cheap problem inside the dear one: the lowest score that a surrogate promises within a box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.search.problem import Problem, Vector
    from dem_build.search.surrogate import Surrogate

__all__ = ["promised", "promised_best"]

ITERATIONS = 60
SPARE = 0.02  # of a limit: what is left of it, as models err and ω are rounded before they are measured
LEAST_SPARE = 1e-4  # of the base's loss, where a limit is about 0


def promised(problem: Problem, surrogate: Surrogate, omega: Vector) -> float:
    """Return the score that a surrogate expects at `omega`."""
    return problem.objective.score(surrogate.losses(omega)) + problem.penalty(omega)


def promised_best(
    problem: Problem, surrogate: Surrogate, box: tuple[Vector, Vector], starts: Iterable[Vector]
) -> Vector:
    """Return the ω of the lowest expected score within a box, that is expected to keep all limits.

    Args:
        problem: Objective, limits and penalty.
        surrogate: Expected losses and slopes.
        box: Lowest and highest ω, [ω] each.
        starts: Where the descents begin; the best end counts.
    """
    ends = [_descend(problem, surrogate, box, np.clip(start, *box)) for start in starts]
    excess = [_excess(problem, surrogate, end) for end in ends]
    least = min(excess)
    kept = [end for end, over in zip(ends, excess, strict=True) if over <= max(least, 0.0)]
    return min(kept, key=lambda omega: promised(problem, surrogate, omega))


def _excess(problem: Problem, surrogate: Surrogate, omega: Vector) -> float:
    return float(max(problem.objective.excess(surrogate.losses(omega)).max(), 0.0))


def _descend(problem: Problem, surrogate: Surrogate, box: tuple[Vector, Vector], start: Vector) -> Vector:
    """Descend by sequential quadratic programming, in [ω], or in [ω, t] with t above every dataset's score."""
    worst = problem.objective.kind == "worst"
    bounds = list(zip(*box, strict=True)) + [(None, None)] * worst
    first = np.append(start, promised(problem, surrogate, start)) if worst else start
    result = minimize(
        (lambda x: x[-1] + problem.penalty(x[:-1])) if worst else (lambda x: promised(problem, surrogate, x)),
        first,
        jac=(lambda x: np.append(_pull(problem, x[:-1]), 1.0))
        if worst
        else (lambda x: _slope(problem, surrogate, x)),
        method="SLSQP",
        bounds=bounds,
        constraints=_constraints(problem, surrogate, worst=worst),
        options={"maxiter": ITERATIONS, "ftol": 1e-9},
    )
    found: Vector = result.x[:-1] if worst else result.x
    return np.clip(np.where(np.isfinite(found), found, start), *box)


def _slope(problem: Problem, surrogate: Surrogate, omega: Vector) -> Vector:
    weight = problem.objective.slope(surrogate.losses(omega))
    return np.asarray(weight @ surrogate.slopes(omega) + _pull(problem, omega))


def _pull(problem: Problem, omega: Vector) -> Vector:
    if problem.center is None:
        return np.zeros_like(omega)
    return np.asarray(2 * problem.pull * (omega - problem.center) / len(omega))


def _constraints(problem: Problem, surrogate: Surrogate, *, worst: bool) -> list[dict[str, Any]]:
    """Return what SLSQP keeps at or above 0: room under each limit, and t above each dataset's score.

    A step that aims at the limit itself as often as not ends beyond it, and its pass is spent for nothing.
    """
    objective, size = problem.objective, problem.size
    limited = np.isfinite(objective.limit)
    constraints: list[dict[str, Any]] = []
    if limited.any():
        spare = np.maximum(SPARE * np.abs(objective.limit), LEAST_SPARE * objective.base)[limited]
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda x: -objective.excess(surrogate.losses(x[:size]))[limited] - spare,
                "jac": lambda x: _padded(-surrogate.slopes(x[:size])[limited], len(x)),
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


def _padded(rows: Vector, width: int) -> Vector:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
