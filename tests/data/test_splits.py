"""A row's side depends on its prompt alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dem_build.data.splits import SPLITS, Smallest, Splitter, normalise, prompt_digest, row_order

PROMPTS = st.text(min_size=1, max_size=40)
SHARES = st.floats(0, 0.5, allow_nan=False)


def sides(splitter, prompts):
    return [splitter.side(prompt_digest(p)) for p in prompts]


def test_sides_are_pinned_for_all_time():
    """Another answer would move rows between train and test of every dataset there is."""
    assert prompt_digest("How many?").hex()[:16] == "a84049d63720febe"
    found = sides(Splitter(0.3, 0.3), "abcdefgh")
    assert "".join(side[0] for side in found) == "tvvvvvtt"  # train and test: t, validation: v


@given(PROMPTS)
def test_case_space_and_composition_do_not_change_the_digest(prompt):
    for other in (prompt.swapcase().swapcase(), f"\n {prompt}\t", unicodedata.normalize("NFD", prompt)):
        if normalise(other) == normalise(prompt):
            assert prompt_digest(other) == prompt_digest(prompt)
    assert prompt_digest(f" \n{prompt}\u3000") == prompt_digest(prompt)
    assert prompt_digest(unicodedata.normalize("NFD", prompt)) == prompt_digest(prompt)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2+2?", "what  is\n2+2? "),
        ("Café", "CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
    ],
)
def test_copies_of_a_prompt_stay_together(one, other):
    assert prompt_digest(one) == prompt_digest(other)


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("2+2", "2-2"), ("e", "é"), ("x²", "x2")])
def test_other_prompts_are_other_prompts(one, other):
    assert prompt_digest(one) != prompt_digest(other)


@given(st.lists(PROMPTS, max_size=30), st.lists(PROMPTS, max_size=30), SHARES, SHARES)
def test_a_side_depends_on_no_other_row(prompts, others, validation, test):
    splitter = Splitter(validation, test)
    assert sides(splitter, others + prompts)[len(others) :] == sides(splitter, prompts)


@given(PROMPTS, SHARES, SHARES, SHARES)
def test_more_validation_leaves_the_test_rows_as_they_are(prompt, less, more, test):
    digest = prompt_digest(prompt)
    assert (Splitter(less, test).side(digest) == "test") == (Splitter(more, test).side(digest) == "test")


@given(PROMPTS, SHARES, SHARES, SHARES)
def test_a_larger_share_keeps_what_the_smaller_held_out(prompt, one, other, test):
    digest, less, more = prompt_digest(prompt), min(one, other), max(one, other)
    if Splitter(less, test).side(digest) == "validation":
        assert Splitter(more, test).side(digest) == "validation"


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32])
def test_nothing_is_held_out_where_nothing_is_asked(digest):
    assert Splitter(0, 0).side(digest) == "train"


def test_the_ends_of_the_hash_are_held_out_first():
    assert Splitter(0.01, 0.01).side(bytes(32)) == "validation"
    assert Splitter(0.01, 0.01).side(b"\xff" * 32) == "test"


def test_shares_are_kept_within_three_standard_errors():
    count = 20_000
    found = sides(Splitter(0.05, 0.1), [f"question {i}" for i in range(count)])
    for name, share in zip(SPLITS, (0.85, 0.05, 0.1), strict=True):
        assert abs(found.count(name) - share * count) < 3 * (count * share * (1 - share)) ** 0.5


@given(st.lists(st.tuples(PROMPTS, PROMPTS), max_size=40), st.integers(1, 50), st.randoms())
def test_the_smallest_are_the_same_rows_in_any_order(rows, most, random):
    def kept(rows):
        orders = [row_order(prompt_digest(p), c) for p, c in rows]
        smallest = Smallest(orders, most)
        return [order for order in orders if smallest.keeps(order)]

    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert sorted(kept(rows)) == sorted(kept(shuffled))
    assert len(kept(rows)) == min(most, len(rows))


@given(st.lists(PROMPTS, unique=True, max_size=40), st.integers(1, 20))
def test_fewer_samples_are_a_part_of_more(prompts, most):
    orders = [row_order(prompt_digest(p), "x") for p in prompts]
    less, more = Smallest(orders, most), Smallest(orders, most + 5)
    assert {o for o in set(orders) if less.keeps(o)} <= {o for o in set(orders) if more.keeps(o)}
