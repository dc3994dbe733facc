"""Gates on the composed model."""

from __future__ import annotations

import math

import pytest

from dem_build.recipe.schema import Gate
from dem_build.report.gates import check
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
