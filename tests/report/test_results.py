"""What records hold becomes results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from build_samples import DEFAULTS, LOSS, Made, make_graph, row_losses
from safetensors.numpy import save

import dem_build.actions
from dem_build import digest
from dem_build.action import Action, Edge, Evaluation, Input
from dem_build.actions import KINDS
from dem_build.actions.sample.read import read_samples
from dem_build.errors import StoreError
from dem_build.report.actions import READERS, sections
from dem_build.report.comparison import Trend, rows
from dem_build.report.inputs import Reader
from dem_build.report.results import Results, collect
from dem_build.search.problem import ratio_stderr

HUGE = b'{"acc": 1' + b"0" * 400 + b"}"


def collected(graph=None, made=None):
    graph, made = graph or make_graph(), made or Made()
    records = made.build(graph)
    return collect(graph, records, made.read), records


def row(base, composed, metric="loss"):
    results = Results({"base": {"t": base}, "composed": {"t": composed}})
    return next(r for r in rows(results) if r.metric == metric)


def test_each_evaluation_stands_under_its_model_and_task():
    results, _ = collected()
    assert results.table == {
        "composed": {
            "loss:math": DEFAULTS["composed", "loss:math"],
            "arc_easy": DEFAULTS["composed", "arc_easy"],
        },
        "base": {"loss:math": LOSS, "arc_easy": DEFAULTS["base", "arc_easy"]},
    }
    assert results.omega == {"math": 0.5}


def test_the_models_digest_names_all_of_its_outputs():
    results, records = collected()
    outputs = records["model"].outputs
    assert set(outputs) == {"weights", "config", "tokenizer", "generation_config"}
    assert results.model_digest == digest.of_json({n: o.digest for n, o in outputs.items()})


def test_another_omega_is_another_model_digest():
    first, _ = collected(make_graph(omega=0.5))
    assert collected(make_graph(omega=0.4))[0].model_digest != first.model_digest


def test_a_build_that_failed_early_still_has_the_results_that_are_recorded():
    graph, made = make_graph(), Made()
    records = {n: r for n, r in made.build(graph).items() if n != "model" and "composed" not in n}
    results = collect(graph, records, made.read)
    assert results.model_digest is None
    assert set(results.table) == {"base"}


def test_warnings_and_costs_come_from_provenance_in_the_graphs_order():
    said = {
        "vector:math": {"seconds": 130.5, "tokens": {"seen": 25000, "trained": 900}, "warnings": ["slow"]},
        "data:math": {"warnings": ["a"]},
    }
    results, _ = collected(made=Made(provenance=said))
    assert results.warnings == (("data:math", "a"), ("vector:math", "slow"))
    cost = results.cost.costs["vector:math"]
    assert (cost.seconds, cost.tokens, cost.trained_tokens) == (130.5, 25000.0, 900.0)


@pytest.mark.parametrize("warnings", [None, 3, "text", {}])
def test_warnings_that_are_no_list_are_none(warnings):
    results, _ = collected(made=Made(provenance={"data:math": {"warnings": warnings}}))
    assert results.warnings == ()


def test_null_is_a_value_that_is_no_number():
    made = Made(metrics={("base", "arc_easy"): b'{"acc": null, "acc_stderr": 0.1}'})
    results, _ = collected(made=made)
    assert math.isnan(results.table["base"]["arc_easy"]["acc"])


@pytest.mark.parametrize(
    "damaged", [b"not json", b"[1]", b'{"acc": "N/A"}', b'{"acc": true}', b"\xff", b"[" * 99_999, HUGE]
)
def test_metrics_that_are_none_are_refused_with_the_action(damaged):
    with pytest.raises(StoreError) as caught:
        collected(made=Made(metrics={("base", "arc_easy"): damaged}))
    assert caught.value.where == "eval:base:arc_easy"


def test_rows_put_losses_first_and_leave_out_counts_and_errors():
    results, _ = collected()
    assert [(r.subject, r.metric) for r in rows(results)] == [("math", "loss"), ("arc_easy", "acc")]


def test_base_and_composed_come_before_other_models():
    results, _ = collected(make_graph(models=("alone", "composed", "base")))
    assert list(rows(results)[0].measures) == ["base", "composed", "alone"]


@pytest.mark.parametrize(
    ("metric", "old", "new", "trend"),
    [
        ("loss", 2.5, 2.0, Trend.BETTER),
        ("loss", 2.0, 2.5, Trend.WORSE),
        ("acc", 0.2, 0.5, Trend.BETTER),
        ("acc", 0.5, 0.2, Trend.WORSE),
        ("word_perplexity", 20.0, 10.0, Trend.BETTER),
        ("ter@strict", 20.0, 10.0, Trend.BETTER),
        ("acc@strict", 0.50, 0.56, Trend.NOISE),
        ("acc", 0.50, 0.56, Trend.NOISE),
    ],
)
def test_a_change_is_judged_by_its_metrics_direction_and_the_errors(metric, old, new, trend):
    error = {f"{metric}_stderr": 0.05}
    change = row({metric: old} | error, {metric: new} | error, metric).change
    assert change is not None
    assert (change.trend, change.delta) == (trend, new - old)


@pytest.mark.parametrize("metric", ["mistakes", "mistakes@strict"])
def test_a_task_says_which_direction_of_its_metrics_is_better(metric):
    metrics = {
        (m, "arc_easy"): {metric: v, f"{metric}_stderr": 0.1} for m, v in (("base", 5.0), ("composed", 3.0))
    }
    said = {"eval:base:arc_easy": {"higher_is_better": {"mistakes": False, "acc": True, "mixed": None}}}
    results, _ = collected(made=Made(metrics=DEFAULTS | metrics, provenance=said))
    change = next(r for r in rows(results) if r.metric == metric).change
    assert change is not None
    assert change.trend is Trend.BETTER


def test_a_change_whose_error_is_not_known_is_worth_nothing_that_is_known():
    change = row({"loss": 2.0}, {"loss": 1.5}).change
    assert change is not None
    assert (change.trend, change.stderr) == (Trend.UNKNOWN, None)


def test_the_error_of_a_change_is_paired_by_rows():
    old, new, tokens = [3.0, 8.0, 2.0, 9.0], [2.5, 7.0, 1.5, 7.9], [2, 4, 2, 5]
    rows_of = {
        ("base", "loss:math"): row_losses(old, tokens),
        ("composed", "loss:math"): row_losses(new, tokens),
    }
    results, _ = collected(made=Made(rows=rows_of))
    apart, counted = np.subtract(new, old), np.array(tokens)
    expected = ratio_stderr(apart[None].astype(float), counted[None].astype(float))[0]
    change = rows(results)[0].change
    assert change is not None
    assert change.stderr == pytest.approx(expected, rel=1e-6)
    assert change.stderr < LOSS["loss_stderr"] * math.sqrt(2)


def test_the_error_of_a_loss_on_few_rows_counts_as_unknown():
    few = {"loss_stderr": 0.01, "rows": 7}
    change = row({"loss": 2.0} | few, {"loss": 1.0} | few).change
    assert change is not None
    assert (change.trend, change.stderr) == (Trend.UNKNOWN, None)


def test_rows_that_are_not_the_same_are_not_paired():
    rows_of = {("base", "loss:math"): row_losses([3.0, 2.0], [2, 2])}
    results, _ = collected(made=Made(rows=rows_of))
    change = rows(results)[0].change
    assert change is not None
    assert change.stderr == pytest.approx(LOSS["loss_stderr"] * math.sqrt(2))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not a tensor",
        save({"nll": np.zeros(2, np.float32)}),
        row_losses([1.0, 2.0], [1]),
        row_losses([math.inf, -math.inf]),
        row_losses([1.0, 2.0], [-1, 2]),
    ],
)
def test_rows_of_another_shape_are_refused_with_the_action(damaged):
    with pytest.raises(StoreError) as caught:
        collected(made=Made(rows={("base", "loss:math"): damaged}))
    assert caught.value.where == "loss:base:math"


def test_no_change_is_said_against_a_value_that_is_no_number():
    assert row({"loss": math.nan}, {"loss": 2.0}).change is None


ANSWERED = {"prompt": "p", "asked": "2 + 2?", "reference": "4", "answer": "5", "tokens": 1, "ended": True}


def answered(*documents: object):
    """Collect a build in which base, and then the composed model, answered as a document says."""
    graph, made = make_graph(), Made()
    params = {"prompts": 1, "max_new_tokens": 8, "dtype": "float32"}
    for model, source in (("base", "base"), ("composed", "model"))[: len(documents)]:
        takes = (Input("model/weights", Edge(source, "weights")),)
        about = Evaluation(model, "sample:math")
        action = Action(f"sample:{model}:math", KINDS["sample"], params, takes, evaluation=about)
        graph = replace(graph, actions={**graph.actions, action.name: action})
    records = made.build(graph)
    for model, document in zip(("base", "composed"), documents, strict=False):
        record = records[f"sample:{model}:math"]
        output = made.put(json.dumps({"answers": document}).encode())
        records[f"sample:{model}:math"] = replace(record, outputs={"answers": output})
    return collect(graph, records, made.read)


def test_answers_of_two_models_stand_side_by_side():
    [found] = answered([ANSWERED], [ANSWERED | {"answer": " 4\n"}]).get(read_samples)
    assert (found.dataset, found.asked, found.reference) == ("math", "2 + 2?", "4")
    assert [(m, a.text) for m, a in found.answers.items()] == [("base", "5"), ("composed", " 4\n")]
    assert [found.agrees(m) for m in found.answers] == [False, True]


def test_answers_of_one_model_are_shown_before_the_other_has_any():
    [found] = answered([ANSWERED]).get(read_samples)
    assert list(found.answers) == ["base"]


@pytest.mark.parametrize("answers", [[{}], [ANSWERED | {"answer": 4}], [ANSWERED | {"asked": None}], 7, None])
def test_answers_of_another_shape_are_an_error_that_says_how_to_mend_it(answers):
    with pytest.raises(StoreError, match=r"answers to prompts cannot be read.*--rebuild sample:base:math"):
        answered(answers)


def test_all_that_actions_read_and_show_is_asked_for():
    folder = Path(dem_build.actions.__file__).parent
    read, show = (
        [import_module(f"dem_build.actions.{path.parent.name}.{path.stem}") for path in folder.glob(name)]
        for name in ("*/read.py", "*/show.py")
    )
    assert {one for module in read for one in vars(module).values() if isinstance(one, Reader)} == set(
        READERS
    )
    assert {section for module in show for section in module.SECTIONS} == set(sections())
