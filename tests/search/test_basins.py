"""The search for ω where losses have more than one basin: it ends in the best, and tells of those that are as good."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import BLOCKS, Waves, Wells, begin, finest, problem_of

from dem_build.search import Objective, Sample, SearchProblem, gradient_search, intervals, search

CLOSE = 0.005  # of the gain
MOST_IN_VAIN = (
    16  # forward-equivalents: the looks, and a place that was looked at last and followed to its end
)


@pytest.mark.parametrize("family", [Wells, Waves])
@pytest.mark.parametrize("size", [2, 3])
def test_the_search_finds_the_best_of_several_basins_nearly_always_and_at_little_cost(family, size):
    """From one start alone it was missed in a tenth to a fifth of such problems; `bench/basins.py` has more of them."""
    found, costs = [], []
    for seed in range(12):
        losses = family(size, seed)
        problem = problem_of(losses)
        known, best = begin(problem), finest(problem, losses)
        losses.cost = 0
        found.append(problem.score(search("gradient", problem, known).best) - best <= CLOSE)
        costs.append(losses.cost)
    assert sum(found) >= 11
    assert np.mean(costs) < 30


def test_looks_elsewhere_that_find_nothing_better_cost_little():
    """A look is a pass without derivatives; a few of them are all that is spent where they are in vain."""
    for seed in range(12):
        losses = Waves(3, seed)
        problem = problem_of(losses)
        known = begin(problem)
        losses.cost = 0
        alone = gradient_search(problem, known)
        descent, losses.cost = losses.cost, 0
        found = search("gradient", problem, known)
        if np.array_equal(found.best.omega, alone.best.omega):
            assert losses.cost - descent <= MOST_IN_VAIN


def twins(lead: float, noise: float = 0.05) -> SearchProblem:
    losses = Twins(lead, noise)
    objective = Objective("mean", np.ones(1), losses.losses(np.zeros(2)), np.ones(1), np.full(1, np.inf))
    return SearchProblem(objective, losses.tokens, np.zeros(2), np.full(2, 1.5), losses)


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
