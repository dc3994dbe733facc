"""The error of a share of samples, where none or all of them are right: shown and judged by, never 0."""

from __future__ import annotations

import io
import json
import math

import pytest
from build_samples import ACC, Made, make_graph
from rich.console import Console

from dem_build.report.comparison import Measurement, Trend, measure_of, rows
from dem_build.report.documents import results_document
from dem_build.report.gates import GateResult
from dem_build.report.html.evaluations import tasks as tasks_section
from dem_build.report.inputs import ReportInputs
from dem_build.report.markdown import results_table
from dem_build.report.results import Results, collect
from dem_build.report.verdict import judge
from dem_build.stats import Z95, stderr_of_share
from dem_build.view.results import result_table


def lm_evals(right, samples):
    """What lm-eval has for a mean of samples that are 0 or 1: the sample's deviation over sqrt(n)."""
    share = right / samples
    deviation = math.sqrt((right * (1 - share) ** 2 + (samples - right) * share**2) / (samples - 1))
    return {"acc": share, "acc_stderr": deviation / math.sqrt(samples), "samples": samples}


def tasks(**models):
    return Results({model: {"words": metrics} for model, metrics in models.items()})


def wilson(right, samples):
    """Wilson's 95 % interval, by its usual formula."""
    share, z = right / samples, Z95
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples**2)) / (1 + z * z / samples)
    return middle - half, middle + half


@pytest.mark.parametrize("samples", [2, 20, 60, 1319])
def test_where_none_or_all_are_right_the_interval_ends_where_wilsons_does(samples):
    for right in (0, samples):
        measure = measure_of(tasks(base=lm_evals(right, samples)), "base", "words", "acc")
        low, high = measure.value - Z95 * measure.stderr, measure.value + Z95 * measure.stderr
        assert (high if right == 0 else low) == pytest.approx(wilson(right, samples)[right == 0])


@pytest.mark.parametrize("samples", [2, 3, 7, 60, 400])
def test_no_share_has_a_smaller_error_than_one_of_which_nothing_was_seen(samples):
    errors = [
        stderr_of_share(r / samples, lm_evals(r, samples)["acc_stderr"], samples) for r in range(samples + 1)
    ]
    assert min(errors) == errors[0] == errors[-1] > 0


def test_a_share_that_is_well_known_keeps_the_error_of_lm_eval():
    found = lm_evals(20, 60)
    assert measure_of(tasks(base=found), "base", "words", "acc") == Measurement(1 / 3, found["acc_stderr"])


def test_a_mean_that_is_no_share_keeps_its_own_error_however_small():
    found = {"brier": 0.02, "brier_stderr": 0.0001, "samples": 60}
    assert measure_of(tasks(base=found), "base", "words", "brier").stderr == 0.0001


@pytest.mark.parametrize(("metric", "value"), [("bleu", 0.0), ("mean_score", 7.0)])
def test_an_error_of_0_of_what_is_no_share_is_unknown(metric, value):
    found = {metric: value, f"{metric}_stderr": 0.0, "samples": 60}
    assert measure_of(tasks(base=found), "base", "words", metric) == Measurement(value)


@pytest.mark.parametrize(("right", "trend"), [(1, Trend.NOISE), (5, Trend.NOISE), (6, Trend.BETTER)])
def test_a_rise_from_none_is_clear_only_where_it_is_more_than_chance_would_do(right, trend):
    """By Fisher's test, too: 5 of 60 against none is p = 0.057, 6 of 60 is 0.027. With an error of 0, 4 were clear."""
    found = tasks(base=lm_evals(0, 60), composed=lm_evals(right, 60))
    assert rows(found)[0].change.trend is trend
    clear = judge(found).headline == "Composing helped the one task."
    assert clear == (trend is Trend.BETTER)


def test_the_error_is_the_same_in_terminal_markdown_and_document_and_lm_evals_stays_under_its_name():
    graph, made = make_graph(), Made()
    nothing = ACC | {
        "acc": 0.0,
        "acc_stderr": 0.0,
        "samples": 60,
        "acc@strict": 1.0,
        "acc@strict_stderr": 0.0,
    }
    made.metrics[("base", "arc_easy")] = nothing
    results = collect(graph, made.build(graph), made.read)
    console = Console(file=io.StringIO(), width=120, markup=False, highlight=False)
    result_table(results, [GateResult("arc_easy", "acc", 0.0, passed=True, why="")], console)
    assert "0.000 ±0.031" in console.file.getvalue()
    assert "±0.000" not in console.file.getvalue()
    assert "0.000 ± 0.031" in results_table(results)
    document = json.loads(json.dumps(results_document(results)))
    assert document["results"]["base"]["arc_easy"] == nothing
    assert document["corrected_stderr"] == {
        "base": {
            "arc_easy": {
                "acc_stderr": pytest.approx(1.96 / (60 + 1.96**2)),
                "acc@strict_stderr": pytest.approx(1.96 / (60 + 1.96**2)),
            }
        }
    }


def test_the_report_says_whose_error_an_accuracy_of_0_has():
    graph = make_graph()
    made = Made(metrics={(m, "arc_easy"): lm_evals(0, 60) for m in ("base", "composed")})
    records = made.build(graph)
    section = tasks_section(ReportInputs(None, graph, records, collect(graph, records, made.read), (), ""))
    assert section.lead.endswith("That of an accuracy of 0 or 1 is Wilson's.")
    assert [mark.title for mark in section.blocks[0].rows[0].marks] == [
        "base: 0.000 ±0.031",
        "composed: 0.000 ±0.031",
    ]


def test_where_no_error_is_corrected_the_document_says_nothing_of_it():
    found = results_document(tasks(base=lm_evals(20, 60)))
    assert "corrected_stderr" not in found
