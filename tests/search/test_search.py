"""The search for ω on losses that are known: derivatives, convergence, limits, intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dem_build.search import (
    SEARCHES,
    Found,
    Objective,
    Sample,
    SearchProblem,
    gain_scale,
    gradient_search,
    intervals,
    search,
    softmax_start,
    spread,
)
from dem_build.search.problem import ratio_stderr
from dem_build.search.searches import grid_levels
from dem_build.search.surrogate import Surrogate

BLOCKS = 8


class Losses:
    """As many datasets as ω; dataset j's loss falls along its own ω and rises along the others."""

    def __init__(self, size: int, seed: int = 0, noise: float = 0.02) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.asked = size, []
        self.tokens = rng.integers(100, 300, (size, BLOCKS)).astype(float)
        self._peak = np.eye(size) * rng.uniform(0.7, 1.1, size)
        self._curve = np.array([0.2 * a @ a.T + np.diag(0.2 + row) for a, row in self._parts(rng)])
        self._shift = noise * rng.standard_normal((size, BLOCKS, size))

    def _parts(self, rng):
        for j in range(self.size):
            yield rng.standard_normal((self.size, self.size)), np.eye(self.size)[j]

    def __call__(self, omega, *, slopes):
        self.asked.append(omega)
        away = omega - self._peak[:, None, :] - self._shift
        bent = np.einsum("jbk,jkl->jbl", away, self._curve)
        height = 0.5 * (away * bent).sum(axis=2)
        nll = (1.5 + np.log1p(height)) * self.tokens
        found = bent / (1 + height)[:, :, None] * self.tokens[:, :, None]
        return Sample(np.array(omega, float), nll, found if slopes else None)

    def mean(self, omega):
        return self(omega, slopes=False).nll.sum(axis=1) / self.tokens.sum(axis=1)


def problem_of(losses: Losses, kind: str = "gain", limit: float = np.inf) -> SearchProblem:
    size = losses.size
    base, single = (
        losses.mean(np.zeros(size)),
        np.array([losses.mean(row)[i] for i, row in enumerate(np.eye(size))]),
    )
    scale = gain_scale(base, single, np.zeros(size))
    objective = Objective(kind, np.full(size, 1 / size), base, scale, np.full(size, limit))
    return SearchProblem(objective, losses.tokens, np.zeros(size), np.full(size, 1.5), losses)


def begin(problem: SearchProblem) -> list[Sample]:
    starts = [np.zeros(problem.size), np.full(problem.size, 1 / problem.size)]
    return [problem.measure(start, slopes=False) for start in starts]


def finest(problem: SearchProblem) -> float:
    """The lowest score of many starts of a dense local search."""
    rng, best = np.random.default_rng(9), np.inf
    for _ in range(3):
        at, step = rng.uniform(0, 1.5, problem.size), 0.3
        here = problem.score(problem.measure(at, slopes=False))
        while step > 1e-4:
            there = np.clip(at + step * rng.standard_normal(problem.size), 0, 1.5)
            score = problem.score(problem.measure(there, slopes=False))
            at, here, step = (there, score, step) if score < here else (at, here, step * 0.98)
        best = min(best, here)
    return best


@pytest.mark.parametrize("kind", ["gain", "mean", "worst"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_gradient_search_finds_the_lowest_score(kind, size):
    losses = Losses(size)
    problem = problem_of(losses, kind)
    known = begin(problem)
    losses.asked.clear()
    found = search("gradient", problem, known)
    assert len(losses.asked) <= 15  # looks elsewhere among them
    best = finest(problem)
    assert problem.score(found.best) <= best + 0.005 * max(abs(best), 0.5)


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "single"])
def test_a_search_never_ends_worse_than_it_began_and_within_the_bounds(name):
    problem = problem_of(Losses(3))
    known = begin(problem)
    found = search(name, problem, known)
    assert problem.score(found.best) <= min(problem.score(s) for s in known)
    assert all(((s.omega >= problem.lower) & (s.omega <= problem.upper)).all() for s in found.samples)
    assert found.best.omega.tolist() == np.round(found.best.omega, 4).tolist()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_limit_holds_where_it_was_measured(name):
    problem = problem_of(Losses(3, seed=4), limit=0.0)
    found = search(name, problem, begin(problem))
    assert problem.objective.keeps_limits(problem.losses(found.best))
    # Here no vector alone keeps the limits of the other datasets.
    assert problem.score(found.best) < 0 or name == "single"


def test_a_search_along_a_limit_does_not_end_because_its_steps_fall_just_beyond_it():
    """Steps that aim at the limit itself miss it by 1e-5 again and again, and the region shrinks to nothing."""
    problem = problem_of(Losses(5, seed=7), limit=0.0)
    found = search("gradient", problem, begin(problem))
    assert problem.score(found.best) < -0.2


def test_the_best_single_is_the_best_point_on_any_axis():
    problem = problem_of(Losses(3))
    found = search("single", problem, begin(problem))
    assert np.count_nonzero(found.best.omega) == 1
    axes = [a * row for row in np.eye(3) for a in np.linspace(0, 1.5, 61)]
    best = min(problem.score(problem.measure(point, slopes=False)) for point in axes)
    assert problem.score(found.best) <= best + 0.005
    between = intervals(problem, found, None)
    assert (between.high[found.best.omega == 0] == 0).all()
    assert (between.low <= found.best.omega).all()


def test_the_best_single_is_found_where_nothing_is_known_of_single_vectors():
    problem = problem_of(Losses(2))
    found = search("single", problem, [problem.measure(np.array([0.4, 0.4]), slopes=False)])
    assert np.count_nonzero(found.best.omega) == 1


def test_the_surrogate_has_the_losses_and_slopes_it_was_given():
    problem = problem_of(Losses(3))
    points = np.random.default_rng(1).uniform(0, 1.5, (5, 3))
    samples = [problem.measure(p, slopes=i > 1) for i, p in enumerate(points)]
    surrogate = Surrogate.fit(problem, samples)
    for sample in samples:
        np.testing.assert_allclose(surrogate.losses(sample.omega), problem.losses(sample), atol=2e-3)
        if sample.slopes is not None:
            np.testing.assert_allclose(surrogate.slopes(sample.omega), problem.loss_slopes(sample), atol=2e-2)


def test_the_surrogates_slopes_are_the_derivatives_of_its_losses():
    problem = problem_of(Losses(2))
    samples = [problem.measure(np.array(p), slopes=True) for p in ([0.1, 0.9], [0.5, 0.2], [1.0, 1.2])]
    surrogate, at, step = Surrogate.fit(problem, samples), np.array([0.6, 0.7]), 1e-5
    for i, move in enumerate(step * np.eye(2)):
        change = (surrogate.losses(at + move) - surrogate.losses(at - move)) / (2 * step)
        np.testing.assert_allclose(surrogate.slopes(at)[:, i], change, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["gain", "mean", "worst"])
def test_the_scores_slope_is_its_derivative(kind):
    objective = problem_of(Losses(3), kind).objective
    losses, step = objective.base - [0.3, 0.1, 0.2], 1e-6
    for j, move in enumerate(step * np.eye(3)):
        change = (objective.score(losses + move) - objective.score(losses - move)) / (2 * step)
        assert objective.slope(losses)[j] == pytest.approx(change, abs=1e-6)


def test_gain_is_0_for_the_base_and_1_for_the_single_vector():
    losses = Losses(2)
    problem = problem_of(losses)
    assert problem.objective.gains(problem.objective.base) == pytest.approx([0, 0])
    assert problem.objective.gains(losses.mean(np.array([1.0, 0.0])))[0] == pytest.approx(1)


def test_the_gains_denominator_is_at_least_two_standard_errors():
    scale = gain_scale(np.array([2.0, 2.0]), np.array([1.99, 1.0]), np.array([0.1, 0.1]))
    assert scale.tolist() == [0.2, 1.0]


def test_a_vector_that_changes_nothing_does_not_make_its_dataset_all_that_counts():
    scale = gain_scale(np.array([2.0, 2.0]), np.array([2.0, 1.0]), np.zeros(2))
    assert scale.tolist() == [0.002, 1.0]


def test_of_a_single_block_the_standard_error_is_infinite_and_the_gains_denominator_finite():
    errors = ratio_stderr(np.array([[3.0, 0.0], [3.0, 5.0]]), np.array([[2.0, 0.0], [2.0, 2.0]]))
    assert np.isinf(errors).tolist() == [True, False]
    scale = gain_scale(np.array([2.0]), np.array([2.5]), errors[:1])
    assert scale.tolist() == [0.5]


@pytest.mark.parametrize(("kind", "limit"), [("gain", 0.01), ("worst", np.inf)])
def test_intervals_do_not_widen_with_what_blocks_lose_under_base_and_candidate_alike(kind, limit):
    """Some rows are harder than others: gains and limits are counted from the base on the rows that were drawn."""
    losses = Losses(2, noise=0.0)
    uneven = np.linspace(-1.2, 1.2, BLOCKS) * losses.tokens * np.array([[1.0], [-1.0]])
    uneven -= losses.tokens * (uneven.sum(axis=1) / losses.tokens.sum(axis=1))[:, None]
    measure = lambda omega, *, slopes: replace(s := losses(omega, slopes=slopes), nll=s.nll + uneven)  # noqa: E731
    problem = replace(problem_of(losses, kind, limit), measure=measure)
    problem = replace(problem, base_nll=measure(np.zeros(2), slopes=False).nll)
    known = begin(problem)
    found = search("gradient", problem, known)
    bounds = intervals(problem, found, known[1])
    assert (bounds.high - bounds.low).max() < 0.3


def test_intervals_hold_the_omega_that_was_found_and_narrow_with_less_noise():
    width = {}
    for noise in (0.02, 0.2):
        problem = problem_of(Losses(2, noise=noise))
        known = begin(problem)
        found = search("gradient", problem, known)
        bounds = intervals(problem, found, known[1])
        assert ((bounds.low <= found.best.omega) & (found.best.omega <= bounds.high)).all()
        width[noise] = float((bounds.high - bounds.low).mean())
    assert width[0.02] < width[0.2]


def test_a_lead_over_equal_omega_that_is_real_is_told_from_none():
    problem = problem_of(Losses(2, seed=3))
    known = begin(problem)
    found = search("gradient", problem, known)
    assert intervals(problem, found, known[1]).over_uniform[0] > 0
    assert intervals(problem, found, found.best).over_uniform == (0, 0)


def flat(noise: float) -> SearchProblem:
    """One dataset whose loss hardly falls along ω, while rows differ in it by `noise`."""
    tilt = noise * np.linspace(-1, 1, BLOCKS)[None, :] - 1e-3

    def measure(omega, *, slopes):
        return Sample(omega, 2 + tilt * omega[0], tilt[:, :, None] if slopes else None)

    objective = Objective("mean", np.ones(1), np.full(1, 2.0), np.ones(1), np.full(1, np.inf))
    return SearchProblem(objective, np.ones((1, BLOCKS)), np.zeros(1), np.full(1, 1.5), measure)


def test_another_omega_is_as_good_within_the_noise_only_where_something_was_measured():
    problem = flat(noise=0.5)
    samples = [problem.measure(np.array([at]), slopes=True) for at in (0.0, 0.1, 0.2)]
    found = Found(problem.best(samples), tuple(samples), "settled")
    assert 0.1 < spread(problem, found) < 0.5


def apart(noise: tuple[float, float], lowest: tuple[float, float] = (0.9, 0.8)) -> SearchProblem:
    """Two datasets, each with an ω of its own at which it is lowest; the rows differ in the slopes by `noise`."""
    tilt = np.linspace(-1, 1, BLOCKS)[None, :] * np.array(noise)[:, None]

    def measure(omega, *, slopes):
        away = omega - np.array(lowest)
        nll = 2 + 0.5 * away[:, None] ** 2 + tilt * away[:, None]
        found = np.eye(2)[:, None, :] * (away[:, None] + tilt)[:, :, None]
        return Sample(omega, nll, found if slopes else None)

    objective = Objective("mean", np.full(2, 0.5), np.full(2, 2.5), np.ones(2), np.full(2, np.inf))
    return SearchProblem(objective, np.ones((2, BLOCKS)), np.zeros(2), np.full(2, 1.5), measure)


def test_an_omega_that_rows_agree_on_is_found_beside_one_that_they_do_not():
    problem = apart(noise=(3.0, 0.02))
    known = [problem.measure(np.array(at), slopes=False) for at in ([0.5, 0.5], [0.0, 0.0], [1.0, 0.0])]
    found = search("gradient", problem, known)
    assert found.reason != "passes"
    assert found.best.omega[1] == pytest.approx(0.8, abs=0.02)
    between = intervals(problem, found, None)
    assert between.high[1] - between.low[1] < 0.3 < between.high[0] - between.low[0]


@pytest.mark.parametrize("name", ["grid", "coordinate"])
def test_the_interval_of_a_coarse_search_holds_what_it_found(name):
    problem = apart(noise=(0.02, 0.02))
    found = search(name, problem, [problem.measure(np.full(2, 0.5), slopes=False)])
    between = intervals(problem, found, None)
    assert (between.low <= found.best.omega).all()
    assert (found.best.omega <= between.high).all()


def test_a_limit_of_nothing_holds_for_the_base_however_its_rows_were_summed():
    """A pass with derivatives has other batches: its losses differ in float32's last digits."""
    whole = apart(noise=(0.02, 0.02), lowest=(-0.5, -0.5))  # no ω that is allowed is as good as none

    def measure(omega, *, slopes):
        return replace(s := whole.measure(omega, slopes=slopes), nll=s.nll * (1 + 1e-7 * slopes))

    start = measure(np.zeros(2), slopes=False)
    objective = replace(whole.objective, base=whole.losses(start), limit=np.zeros(2))
    found = search("gradient", replace(whole, measure=measure, objective=objective), [start])
    assert found.best.omega.tolist() == [0, 0]


@pytest.mark.parametrize(("size", "seed"), [(2, 5), (3, 7), (5, 5)])
def test_no_omega_is_called_as_good_on_a_guess(size, seed):
    """Around each vector alone, of which no slopes are known, steep losses let a model promise anything."""
    losses = Losses(size, seed)
    losses._curve *= 30
    losses._peak *= 0.3
    problem = problem_of(losses)
    alone = [problem.measure(share * row, slopes=False) for share in (1.0, 1.5) for row in np.eye(size)]
    assert spread(problem, search("gradient", problem, [*begin(problem), *alone])) < 0.1


def test_another_omega_is_as_good_whether_the_best_one_has_slopes_of_its_own_or_not():
    """The last step of a descent may have been taken without: how much rows disagree is known from beside it."""
    problem = flat(noise=0.5)
    samples = [problem.measure(np.array([at]), slopes=True) for at in (0.0, 0.1, 0.2)]
    samples[2] = replace(samples[2], slopes=None)
    best = problem.best(samples)
    assert best.slopes is None
    assert 0.1 < spread(problem, Found(best, tuple(samples), "settled")) < 0.5


@pytest.mark.parametrize("size", [2, 5])
def test_a_step_whose_end_the_models_know_takes_no_derivatives(size):
    """Two passes of three are saved, and what is found is as good."""
    losses = Losses(size, noise=0.0)
    problem, steps = problem_of(losses), []

    def measure(omega, *, slopes):
        steps.append(slopes)
        return losses(omega, slopes=slopes)

    known = begin(problem)
    found = gradient_search(replace(problem, measure=measure), known)
    assert steps[0]
    assert not steps[-1]
    slopes = problem.loss_slopes(problem.measure(found.best.omega, slopes=True))
    assert Surrogate.fit(problem, found.samples).slopes(found.best.omega) == pytest.approx(slopes, abs=0.02)
    assert problem.score(found.best) == pytest.approx(finest(problem), abs=5e-3)


def test_no_omega_beyond_a_limit_is_called_as_good():
    def measure(omega, *, slopes):
        nll = np.array([[2.0] * BLOCKS, [2 + 0.1 * omega[0]] * BLOCKS])
        tilt = np.array([np.linspace(-0.5, 0.5, BLOCKS), [0.1] * BLOCKS])[:, :, None]
        return Sample(omega, nll, tilt if slopes else None)

    limits = np.array([np.inf, 0.01])
    objective = Objective("mean", np.array([1.0, 0.0]), np.full(2, 2.0), np.ones(2), limits)
    problem = SearchProblem(objective, np.ones((2, BLOCKS)), np.zeros(1), np.full(1, 1.5), measure)
    samples = [measure(np.array([at]), slopes=True) for at in (0.0, 0.05, 0.6, 0.9)]
    assert spread(problem, Found(samples[1], tuple(samples), "settled")) < 0.06


def test_no_other_omega_is_as_good_where_rows_agree():
    problem = problem_of(Losses(2, noise=0.0))
    assert spread(problem, search("gradient", problem, begin(problem))) < 0.1


def test_a_limit_is_sought_where_the_score_does_not_change():
    objective = Objective("gain", np.array([1.0, 0.0]), np.ones(2), np.ones(2), np.array([np.inf, -0.05]))

    def measure(omega, *, slopes):
        nll = np.stack([np.ones(BLOCKS), np.full(BLOCKS, 1 - 0.1 * omega[0])])
        found = np.repeat([[[0.0]], [[-0.1]]], BLOCKS, axis=1)
        return Sample(omega, nll, found if slopes else None)

    problem = SearchProblem(objective, np.ones((2, BLOCKS)), np.zeros(1), np.full(1, 1.5), measure)
    found = search("gradient", problem, [measure(np.zeros(1), slopes=False)])
    assert found.best.omega[0] >= 0.5


def test_a_pull_keeps_omega_near_its_center():
    free = problem_of(Losses(2))
    center = np.array([0.2, 0.2])
    held = replace(free, center=center, pull=50.0)
    loose, tight = (search("gradient", p, begin(p)).best.omega for p in (free, held))
    assert np.abs(tight - center).max() < 0.1 < np.abs(loose - center).max()


def test_the_standard_error_of_a_ratio_is_that_of_resampling():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 150, (1, 400)).astype(float)
    sums = tokens * (1 + 0.3 * rng.standard_normal((1, 400)))
    drawn = rng.integers(0, 400, (400, 2000))
    resampled = np.std(sums[0, drawn].sum(axis=0) / tokens[0, drawn].sum(axis=0))
    assert ratio_stderr(sums, tokens)[0] == pytest.approx(resampled, rel=0.1)


def test_softmax_weights_sum_to_one_and_favour_the_lowest_loss():
    weights = softmax_start(np.array([2.0, 3.0, 2.5]))
    assert weights.sum() == pytest.approx(1)
    assert weights.argmax() == 0


@pytest.mark.parametrize(("size", "levels"), [(1, 7), (2, 7), (3, 6), (5, 3), (8, 2), (9, 1)])
def test_a_grid_has_as_many_levels_as_fit(size, levels):
    assert grid_levels(size) == levels
