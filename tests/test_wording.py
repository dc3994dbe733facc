"""Counts and lists in words."""

from __future__ import annotations

import pytest

from dem_build.wording import counted, first_of, together


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_a_count_has_its_word_in_the_singular_for_one_alone(number, said):
    assert counted(number, "row") == said


@pytest.mark.parametrize(("names", "said"), [("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_all_names_are_told_together(names, said):
    assert together(iter(names)) == said


@pytest.mark.parametrize(
    ("names", "said"),
    [("", ""), ("a", "a"), ("ab", "a, b"), ("abc", "a, b and 1 more"), ("abcd", "a, b and 2 more")],
)
def test_the_first_names_are_told_and_how_many_more_there_are(names, said):
    assert first_of(iter(names), 2) == said
