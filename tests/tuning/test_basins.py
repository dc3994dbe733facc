"""The search for ω where losses have more than one basin: it ends in the best, and tells of those that are as good."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dem_build.search import Objective, Problem, Sample, gain_scale, intervals, search

BLOCKS = 8
CLOSE = 0.005  # of the gain


class Wells:
    """As many datasets as ω; each loss has a well near its own vector, and another one anywhere."""

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng([seed, size])
        self.cost = 0
        own = np.eye(size) * rng.uniform(0.6, 1.1, size) + rng.uniform(0, 0.25, (size, size))
        self._centers = np.stack([own, rng.uniform(0, 1.5, (size, size))], axis=1)  # [datasets, wells, ω]
        mixed = rng.standard_normal((size, 2, size, size))
        self._curves = mixed @ mixed.swapaxes(2, 3) * 0.3 / size + rng.uniform(
            0.2, 1.5, (size, 2, 1, size)
        ) * np.eye(size)
        self._heights = np.stack([np.zeros(size), rng.uniform(-0.15, 0.3, size)], axis=1)
        self._floors = rng.uniform(0.75, 1.85, size)
        self.tokens = rng.integers(100, 300, (size, BLOCKS)).astype(float)
        tilt = rng.standard_normal((size, BLOCKS, size)) * 0.01
        self._tilt = (
            tilt
            - np.einsum("jbk,jb->jk", tilt, self.tokens)[:, None] / self.tokens.sum(axis=1)[:, None, None]
        )

    def losses(self, omega):
        return self._of(omega)[0]

    def _of(self, omega):
        away = omega - self._centers
        bent = np.einsum("jwk,jwkl->jwl", away, self._curves)
        height = 0.5 * (away * bent).sum(axis=2)
        depth = np.exp(-(self._heights + np.log1p(height)) / 0.15)
        share = depth / depth.sum(axis=1, keepdims=True)
        slopes = (share[:, :, None] * bent / (1 + height)[:, :, None]).sum(axis=1)
        return self._floors - 0.15 * np.log(depth.sum(axis=1)), slopes

    def __call__(self, omega, *, slopes):
        self.cost += 3 if slopes else 1
        losses, found = self._of(omega)
        nll = (losses[:, None] + self._tilt @ omega) * self.tokens
        sloped = (found[:, None, :] + self._tilt) * self.tokens[:, :, None]
        return Sample(np.array(omega, float), nll, sloped if slopes else None)


def problem_of(losses, size: int, kind: str = "gain") -> Problem:
    base = losses.losses(np.zeros(size))
    single = np.array([losses.losses(row)[i] for i, row in enumerate(np.eye(size))])
    scale = gain_scale(base, single, np.full(size, 0.02))
    objective = Objective(kind, np.full(size, 1 / size), base, scale, np.full(size, np.inf))
    return Problem(objective, losses.tokens, np.zeros(size), np.full(size, 1.5), losses)


def begin(problem: Problem) -> list[Sample]:
    size = problem.size
    starts = [np.zeros(size), *np.eye(size), np.full(size, 1 / size)]
    return [problem.measure(start, slopes=False) for start in starts]


def finest(problem: Problem, losses: Wells) -> float:
    """Return the lowest score on a fine grid."""
    axis = np.linspace(0, 1.5, {2: 41, 3: 17}[problem.size])
    points = itertools.product(axis, repeat=problem.size)
    return min(problem.objective.score(losses.losses(np.array(point))) for point in points)


@pytest.mark.parametrize("size", [2, 3])
def test_the_search_finds_the_best_of_several_basins_nearly_always_and_at_little_cost(size):
    """From one start alone it was missed in a sixth of such problems."""
    gaps, costs = [], []
    for seed in range(12):
        losses = Wells(size, seed)
        problem = problem_of(losses, size)
        best = finest(problem, losses)
        losses.cost = 0
        found = search("gradient", problem, begin(problem))
        gaps.append(problem.score(found.best) - best)
        costs.append(losses.cost)
    assert sum(gap <= CLOSE for gap in gaps) >= 11
    assert np.mean(costs) < 40


def twins(lead: float, noise: float = 0.05) -> Problem:
    losses = Twins(lead, noise)
    objective = Objective("mean", np.ones(1), losses.losses(np.zeros(2)), np.ones(1), np.full(1, np.inf))
    return Problem(objective, losses.tokens, np.zeros(2), np.full(2, 1.5), losses)


class Twins:
    """One loss, lowest at two ω of which `lead` says how much deeper the first is; rows differ by `noise`."""

    places = np.array([[0.3, 1.0], [1.1, 0.0]])
    tokens = np.ones((1, BLOCKS))

    def __init__(self, lead: float, noise: float) -> None:
        self._depths = np.array([1.0, 1.0 - lead])
        self._noise = noise * np.linspace(-1, 1, BLOCKS)

    def losses(self, omega):
        return self._of(omega)[0]

    def _of(self, omega):
        away = omega - self.places
        bump = self._depths * np.exp(-(away**2).sum(axis=1) / 0.5)
        return 2.0 - bump.sum(keepdims=True), (bump[:, None] * away / 0.25).sum(axis=0)

    def __call__(self, omega, *, slopes):
        loss, found = self._of(omega)
        tilt = np.array([1.0, -1.0])
        nll = loss[:, None] + self._noise * (tilt @ omega)
        sloped = (found + self._noise[:, None] * tilt)[None]
        return Sample(np.array(omega, float), nll, sloped if slopes else None)


@pytest.mark.parametrize("name", ["gradient", "coordinate", "grid"])
@pytest.mark.parametrize("lead", [0.1, -0.1])
def test_every_search_ends_in_the_deeper_basin_whichever_it_is(name, lead):
    problem = twins(lead)
    near_first, near_second = np.array([0.2, 0.8]), np.array([1.0, 0.1])
    for start in (near_first, near_second):
        found = search(name, problem, [problem.measure(start, slopes=False)])
        assert np.abs(found.best.omega - Twins.places[0 if lead > 0 else 1]).max() < 0.1


@pytest.mark.parametrize("name", ["gradient", "coordinate"])
def test_a_basin_that_is_as_good_is_told_of_and_lies_within_the_intervals(name):
    problem = twins(lead=0.005)
    found = search(name, problem, begin(problem))
    assert len(found.ends) == 2
    for end, place in zip(
        found.ends, Twins.places if found.best.omega[0] < 0.7 else Twins.places[::-1], strict=True
    ):
        assert np.abs(end.omega - place).max() < 0.1
    between = intervals(problem, found, None)
    for place in Twins.places:
        assert ((between.low <= place + 0.05) & (place - 0.05 <= between.high)).all()


def test_a_basin_that_rows_agree_is_worse_widens_no_interval():
    problem = twins(lead=0.1, noise=0.001)
    found = search("gradient", problem, begin(problem))
    between = intervals(problem, found, None)
    assert (between.high - between.low).max() < 0.2
