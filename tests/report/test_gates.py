"""Gates on the composed model."""

from __future__ import annotations

import math

import pytest

from dem_build.recipe.sections import Gate
from dem_build.report.gates import Reference, check
from dem_build.report.results import Results

RESULTS = Results(
    {
        "composed": {"words": {"acc": 0.29, "odd": math.nan, "slips": 9.0}, "loss:math": {"loss": 2.0}},
        "base": {"words": {"acc": 0.30, "slips": 5.0}, "loss:math": {"loss": 2.5}},
        "mix": {"words": {"acc": 0.28, "slips": 11.0}, "loss:math": {"loss": 1.5}},
    },
    higher_is_better={"words": {"acc": True, "slips": False}},
)


def judged(**gate):
    (result,) = check([Gate(**({"task": "words", "metric": "acc"} | gate))], RESULTS)
    return result


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"min": 0.29}, True),
        ({"min": 0.3}, False),
        ({"max": 0.29}, True),
        ({"max": 0.28}, False),
        ({"min": 0.2, "max": 0.28}, False),
        ({"max_drop": 0.01, "against": "base"}, True),
        ({"max_drop": 0.009, "against": "base"}, False),
        ({"max_drop": 0.0, "against": "mix"}, True),
    ],
)
def test_a_gate_passes_when_all_of_its_conditions_hold(gate, passed):
    assert judged(**gate).passed is passed


def test_a_drop_below_nobody_in_particular_is_below_the_base():
    assert not judged(max_drop=0.009).passed
    assert "of base" in judged(max_drop=0.009).why


@pytest.mark.parametrize(("against", "passed"), [("base", True), ("mix", False)])
def test_of_a_loss_the_bound_is_on_its_rise(against, passed):
    assert judged(task="loss:math", metric="loss", max_drop=0.1, against=against).passed is passed


@pytest.mark.parametrize(("against", "passed"), [("base", False), ("mix", True)])
def test_of_a_metric_whose_task_calls_less_better_the_bound_is_on_its_rise(against, passed):
    assert judged(metric="slips", max_drop=1.0, against=against).passed is passed


def test_a_bound_of_zero_reads_as_a_sentence():
    assert judged(max_drop=0.0).why == "not below the 0.300 of base"


def test_a_value_that_was_not_measured_fails():
    result = judged(task="nowhere", min=0.0)
    assert (result.passed, result.value) == (False, None)
    assert "nowhere" in result.why


def test_a_value_that_is_no_number_fails():
    assert not judged(metric="odd", min=-1e9).passed
    assert not judged(metric="odd", max_drop=1e9).passed


def test_a_model_to_compare_with_that_was_not_measured_fails():
    result = judged(max_drop=0.5, against="other")
    assert (result.passed, result.value) == (False, 0.29)
    assert "other" in result.why


def test_a_failed_gate_names_the_conditions_that_failed_alone():
    assert judged(min=0.1, max=0.2).why == "at most 0.2"


def against_base_revision(before, **gate):
    asked = Gate(task="words", metric="acc", against="base-revision", **gate)
    (result,) = check([asked], RESULTS, before)
    return result


@pytest.mark.parametrize(
    ("gate", "stderr", "passed"),
    [
        ({"max_drop": 0.01}, None, True),
        ({"max_drop": 0.009}, None, False),
        ({"margin": 2.0}, 0.005, True),  # 0.30 - 0.29 is two standard errors of 0.005
        ({"margin": 1.9}, 0.005, False),
        ({"max_drop": 0.005, "margin": 1.0}, 0.005, True),
        ({"max_drop": 0.005, "margin": 0.9}, 0.005, False),
        ({"margin": 100.0}, None, False),  # of an error that nobody knows nothing is given
    ],
)
def test_a_margin_gives_way_by_standard_errors_of_the_difference(gate, stderr, passed):
    before = {("words", "acc"): Reference(0.30, 0.29, stderr)}
    assert against_base_revision(before, **gate).passed is passed


def test_a_build_alone_judges_no_gate_against_the_base_revision():
    result = against_base_revision(None, max_drop=0.0)
    assert (result.passed, result.judged) == (True, False)
    assert "dem ci" in result.why


def test_the_other_bounds_of_such_a_gate_are_judged_by_every_build():
    result = against_base_revision(None, max_drop=0.0, min=0.5)
    assert (result.passed, result.judged) == (False, True)


def test_what_the_base_revision_never_measured_fails():
    assert not against_base_revision({}, max_drop=1.0).passed


def test_where_test_data_changed_the_rows_of_both_are_what_counts():
    """On all its rows the model lies at 0.29; on those of both revisions it is better than before."""
    assert against_base_revision({("words", "acc"): Reference(0.20, 0.21, None)}, max_drop=0.0).passed


def test_a_margin_is_a_bound_against_a_model_of_the_same_recipe_too():
    assert not judged(margin=1.0, against="base").passed  # no error is known there
    assert judged(margin=0.0, against="mix").passed
