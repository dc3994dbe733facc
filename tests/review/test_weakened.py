"""Which gates ask for less than they did."""

from __future__ import annotations

import pytest

from dem_build.recipe.sections import Gate
from dem_build.report.results import Results
from dem_build.review.weakened import weakened

RESULTS = Results(
    {"composed": {"t": {"acc": 0.25}}, "base": {"t": {"acc": 0.3}}}, higher_is_better={"t": {"acc": True}}
)


def gate(**bounds):
    return Gate(**({"task": "t", "metric": "acc"} | bounds))


def found(before, after, *, measured=(RESULTS, None)):
    told = weakened(
        [gate(**b) for b in before], [gate(**a) for a in after], lambda t: t, measured, lambda i: 10 + i
    )
    return [(w.how, w.was, w.now, w.line, w.passed) for w in told]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"min": 0.2}], [{"min": 0.2}]),
        ([{"min": 0.2}], [{"min": 0.3}]),
        ([{"max": 0.2}], [{"max": 0.1}]),
        ([{"min": 0.1, "max": 0.9}], [{"max": 0.9}, {"min": 0.1}]),  # one gate or two: the same is asked
        ([{"max_drop": 0.1, "against": "base"}], [{"max_drop": 0.1, "against": "base", "min": 0.5}]),
        ([{"margin": 2.0, "against": "base"}], [{"margin": 1.0, "against": "base"}]),
        ([{"max_drop": 0.0, "against": "base-revision"}], [{"max_drop": 0.0, "against": "base-revision"}]),
        ([], [{"min": 0.2}]),
    ],
)
def test_as_strict_or_stricter_is_not_weaker(before, after):
    assert found(before, after) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"min": 0.2}], [{"min": 0.1}]),
        ([{"max": 0.2}], [{"max": 0.3}]),
        ([{"min": 0.2}], [{"max": 0.9}]),
        ([{"min": 0.1, "max": 0.9}], [{"min": 0.1}]),
        ([{"max_drop": 0.1, "against": "base"}], [{"max_drop": 0.2, "against": "base"}]),
        ([{"max_drop": 0.1, "against": "base"}], [{"max_drop": 0.1, "against": "other"}]),
        ([{"max_drop": 0.1, "against": "base"}], [{"max_drop": 0.1, "against": "base", "margin": 1.0}]),
        ([{"margin": 1.0, "against": "base"}], [{"margin": 2.0, "against": "base"}]),
    ],
)
def test_a_bound_that_no_gate_implies_is_loosened(before, after):
    ((how, _, _, line, _),) = found(before, after)
    assert (how, line) == ("loosened", 10)


def test_it_is_judged_as_it_was():
    assert found([{"min": 0.3}], [{"min": 0.2}]) == [("loosened", "at least 0.3", "at least 0.2", 10, False)]
    assert found([{"min": 0.2}], []) == [("removed", "at least 0.2", "", 0, True)]
    assert found([{"min": 0.2}], [{"metric": "f1", "min": 0.2}])[0][0] == "removed"
    assert found([{"min": 0.2}], [], measured=None) == [("removed", "at least 0.2", "", 0, None)]


def test_against_a_base_revision_that_was_never_measured_it_fails():
    asked = {"max_drop": 1.0, "against": "base-revision"}
    assert found([asked], [], measured=(RESULTS, {}))[0][-1] is False
    assert found([asked], [], measured=(RESULTS, None))[0][-1] is None
    assert found([asked], [], measured=(RESULTS, {("t", "acc"): None}))[0][-1] is None


def test_a_renamed_dataset_takes_its_gates_along():
    before, after = (
        [Gate(task="loss:a", metric="loss", max=1.0)],
        [Gate(task="loss:b", metric="loss", max=1.0)],
    )
    assert not weakened(before, after, {"loss:a": "loss:b"}.get, None, lambda _: 1)
