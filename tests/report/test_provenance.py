"""No key vouches for provenance: whatever shape it has, results and report are made, and say what they can."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from build_samples import Made, make_graph, outcome_of, with_mixture
from hypothesis import given, settings
from odd_shapes import tables

from dem_build.recipe import Recipe
from dem_build.report.card import card
from dem_build.report.documents import results_document
from dem_build.report.html.page import render
from dem_build.report.inputs import ReportInputs
from dem_build.report.results import collect
from dem_build.report.summary import summary

FIELDS = (
    "curve", "validation", "tokens", "seconds", "device_seconds", "warnings", "higher_is_better", "versions",
    "device", "finished", "parts", "planned_tokens", "compared_tokens",
)  # fmt: skip


def make(provenance):
    graph = with_mixture(make_graph())
    made = Made(provenance=dict.fromkeys(graph.actions, provenance))
    records = made.build(graph)
    if "parts" not in provenance:
        part = {"train": records["data:math"].outputs["train"].digest, "share": 1.0, "epochs": 2.0}
        about = {"planned_tokens": 100, "compared_tokens": None, "parts": [part]}
        records["data:mix"] = replace(records["data:mix"], provenance=about | provenance)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "base": {"model": "./base"},
            "datasets": {"math": {"path": "math.jsonl", "omega": 0.5}},
        }
    ).model_copy(update={"folder": Path("/project")})
    return ReportInputs(recipe, graph, records, collect(graph, records, made.read), (), "0.1.0")


@given(provenance=tables(*FIELDS))
@settings(deadline=None, max_examples=200)
def test_results_and_report_are_made_of_provenance_of_any_shape(provenance):
    inputs = make(provenance)
    results = inputs.results
    json.dumps(results_document(results), allow_nan=False)
    card(inputs.recipe, inputs.graph, inputs.records, results, {})
    summary("tiny", outcome_of(inputs.graph, inputs.records), results)
    assert render(inputs)


def test_a_mixture_says_what_its_record_does():
    mixture = make({"tokens": {"seen": 90}}).results.baselines["mix"].mixture
    assert (mixture.planned, mixture.tokens, mixture.vectors) == (100, 90, 90)
    assert mixture.shares == {"math": 1.0}


@pytest.mark.parametrize(
    "provenance", [{"tokens": []}, {"tokens": {"seen": "many"}}, {"parts": 3}, {"planned_tokens": math.inf}]
)
def test_a_mixture_of_which_nothing_can_be_said_is_a_baseline_all_the_same(provenance):
    assert make(provenance).results.baselines["mix"].mixture is None
