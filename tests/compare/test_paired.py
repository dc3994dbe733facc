"""Differences of two models on the same rows, and how sure they are: held against other formulas and every outcome."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from dem_build.compare.paired import (
    FEW_DISCORDANT,
    Observation,
    Pairs,
    SignificanceTest,
    effect_of,
    holm,
    mcnemar,
    pair,
    unpaired,
)
from dem_build.stats import FEW_ROWS


def documents(values, start=0):
    return [Observation(place, float(value)) for place, value in enumerate(values, start)]


def difference(before, after):
    return effect_of(pair(documents(before), documents(after)))


@pytest.mark.parametrize(("fell", "rose"), [(0, 0), (0, 1), (3, 0), (5, 2), (2, 9), (6, 6), (1, 11)])
def test_mcnemar_counts_every_way_in_which_pairs_that_disagree_can_fall(fell, rose):
    """Each of the 2^n outcomes is as likely; those at least as uneven are counted one by one."""
    n, apart = fell + rose, abs(fell - rose)
    outcomes = list(product((-1, 1), repeat=n))
    as_uneven = sum(abs(sum(outcome)) >= apart for outcome in outcomes)
    assert mcnemar(fell, rose) == pytest.approx(as_uneven / len(outcomes))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_of_scipy(fell, rose):
    expected = scipy_stats.binomtest(fell, fell + rose, 0.5).pvalue if fell + rose else 1.0
    assert mcnemar(fell, rose) == pytest.approx(expected)
    assert mcnemar(fell, rose) == mcnemar(rose, fell)


def test_few_pairs_that_disagree_are_judged_exactly_and_many_by_students_t():
    right = [1] * 100
    few = [0] * (FEW_DISCORDANT - 1) + right[FEW_DISCORDANT - 1 :]
    many = [0] * FEW_DISCORDANT + right[FEW_DISCORDANT:]
    exact, normal = difference(right, few), difference(right, many)
    assert (exact.method, exact.p) == (SignificanceTest.MCNEMAR, mcnemar(FEW_DISCORDANT - 1, 0))
    assert normal.method is SignificanceTest.PAIRED


values = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=FEW_ROWS, max_size=40)


@given(values)
def test_the_change_of_a_mean_is_the_paired_t_test_of_scipy(scores):
    before, after = zip(*scores, strict=True)
    apart = np.array(after) - np.array(before)
    found = difference(before, after)
    assert found.delta == pytest.approx(apart.mean(), abs=1e-9)
    spread = apart.std(ddof=1) / math.sqrt(len(apart))
    if found.method is SignificanceTest.PAIRED and spread > 1e-6:
        assert found.stderr == pytest.approx(spread, rel=1e-6)
        assert found.p == pytest.approx(scipy_stats.ttest_rel(after, before).pvalue, rel=1e-6, abs=1e-12)


@given(values)
def test_sides_that_are_exchanged_change_the_sign_alone(scores):
    before, after = zip(*scores, strict=True)
    one, other = difference(before, after), difference(after, before)
    assert one.delta == -other.delta
    assert (one.stderr, one.p, one.method) == (other.stderr, other.p, other.method)


@given(st.lists(st.floats(-5, 5), max_size=30))
def test_a_side_against_itself_is_no_change(scores):
    found = difference(scores, scores)
    assert found is None or (found.delta, found.p in (None, 1.0)) == (0.0, True)


def test_a_loss_is_a_ratio_over_rows_whose_error_that_of_resampled_rows_comes_to():
    """The error of Σ d / Σ t is checked by drawing the rows anew, a formula of its own."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, 60, 400)
    old = random.normal(2.0, 0.5, 400) * tokens
    new = old + random.normal(-0.05, 0.3, 400) * tokens
    sides = [
        [Observation(i, float(v), int(t)) for i, (v, t) in enumerate(zip(side, tokens, strict=True))]
        for side in (old, new)
    ]
    found = effect_of(pair(*sides))
    drawn = random.integers(0, 400, (4000, 400))
    ratios = (new - old)[drawn].sum(1) / tokens[drawn].sum(1)
    assert found.delta == pytest.approx((new - old).sum() / tokens.sum())
    assert found.stderr == pytest.approx(ratios.std(), rel=0.05)


def test_where_a_few_long_rows_weigh_most_chance_is_not_called_a_change():
    """Eight rows of 5 to 100 tokens: with n - 1 degrees of freedom one in ten would be, and not one in twenty."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        tokens = np.maximum(1, random.lognormal(3, 0.8, 8)).astype(int).tolist()
        apart = (random.normal(0, 0.3, 8) * tokens).tolist()
        old = [Observation(i, 0.0, t) for i, t in enumerate(tokens)]
        new = [Observation(i, d, t) for i, (d, t) in enumerate(zip(apart, tokens, strict=True))]
        found.append(effect_of(pair(old, new)).p)
    assert 0.03 < np.mean([p is not None and p < 0.05 for p in found]) < 0.075


def test_one_row_that_outweighs_all_others_tells_nothing_of_them():
    sides = [
        [Observation(i, v, 10_000 if i == 0 else 1) for i, v in enumerate(side)]
        for side in ([0.0] * 9, range(9))
    ]
    assert effect_of(pair(*sides)).p is None


def test_rows_are_paired_by_what_tells_them_apart_whatever_their_order():
    pairs = pair(
        [Observation("a", 1.0), Observation("b", 2.0), Observation("gone", 3.0)],
        [Observation("new", 9.0), Observation("b", 5.0), Observation("a", 1.5), Observation("new too", 9.0)],
    )
    assert (pairs.common, pairs.only_before, pairs.only_after) == (2, 1, 2)
    assert pairs.means == (1.5, 3.25)


def test_of_a_row_that_is_there_twice_as_many_copies_count_as_both_sides_have():
    before = [Observation("a", 1.0), Observation("a", 3.0), Observation("b", 0.0)]
    after = [Observation("a", 4.0), Observation("b", 1.0), Observation("b", 1.0)]
    pairs = pair(before, after)
    assert (pairs.common, pairs.only_before, pairs.only_after) == (2, 1, 1)
    assert pairs.means == (1.0, 2.5)  # of both copies of `a` the mean, 2


def test_copies_of_a_row_make_no_difference_surer():
    """Every row ten times has the mean that it has once, and its error."""
    old, new = [0.1 * i for i in range(12)], [0.1 * i + 0.03 * (-1) ** i * i for i in range(12)]
    once = difference(old, new)
    tenfold = [[o for o in documents(side) for _ in range(10)] for side in (old, new)]
    often = effect_of(pair(*tenfold))
    assert often.delta == pytest.approx(once.delta)
    assert often.stderr == pytest.approx(once.stderr)
    assert often.p == pytest.approx(once.p)


def test_copies_that_are_paired_by_their_places_are_one_unit_too():
    twins = [[Observation(i, float(v), unit=i // 2) for i, v in enumerate(side)] for side in ((0, 0), (1, 1))]
    pairs = pair(*twins)
    assert (len(pairs.units), pairs.common) == (1, 2)
    assert effect_of(pairs).p == 1.0  # one pair that disagrees says nothing


def test_a_row_of_which_another_part_counts_is_another_row():
    pairs = pair([Observation("a", 1.0, 5)], [Observation("a", 1.0, 6)])
    assert (pairs.common, pairs.only_before, pairs.only_after) == (0, 1, 1)
    assert effect_of(pairs) is None


def test_of_few_rows_nobody_knows_the_error():
    found = difference([0.5] * (FEW_ROWS - 1), [0.1 * i for i in range(FEW_ROWS - 1)])
    assert (found.stderr, found.p, found.method) == (None, None, None)


def test_of_differences_that_are_all_alike_nobody_knows_the_error():
    found = difference([0.5] * 20, [0.75] * 20)
    assert (found.delta, found.stderr, found.p) == (0.25, None, None)


def test_unpaired_values_are_held_against_the_normal_distribution():
    found = unpaired(-0.5, 0.3, 0.4)
    assert found.stderr == pytest.approx(0.5)
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(1.0))
    assert unpaired(0.5, None, 0.4).p is None


def test_holm_as_worked_by_hand():
    """0.01 · 4, 0.03 · 3 and 0.04 · 2, of which the last may not be less; unknown ones count for nothing."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0.001, 0.5))
def test_holm_rejects_what_closed_testing_with_bonferroni_rejects(chances, alpha):
    """Holm's is the closed test: a hypothesis falls where Bonferroni rejects every set that it is in."""
    indices = range(len(chances))
    sets = [[i for i in indices if mask >> i & 1] for mask in range(1, 2 ** len(chances))]
    for i, corrected in enumerate(holm(chances)):
        closed = max(min(1.0, min(chances[j] for j in s) * len(s)) for s in sets if i in s)
        assert corrected == pytest.approx(closed)
        assert (corrected <= alpha) == (closed <= alpha) or math.isclose(closed, alpha)


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_a_corrected_chance_is_never_smaller_and_keeps_the_order(chances):
    corrected = holm(chances)
    known = [(p, q) for p, q in zip(chances, corrected, strict=True) if p is not None]
    assert all(p <= q <= 1 for p, q in known)
    assert [q for _, q in sorted(known)] == sorted(q for _, q in known)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3)), max_size=25),
    st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3)), max_size=25),
)
def test_no_row_is_lost_or_made_up(before, after):
    sides = [[Observation(row, value) for row, value in side] for side in (before, after)]
    pairs = pair(*sides)
    assert isinstance(pairs, Pairs)
    assert pairs.common + pairs.only_before == len(before)
    assert pairs.common + pairs.only_after == len(after)
    back = pair(*reversed(sides))
    assert {*back.units} == {*pairs.swapped.units}
