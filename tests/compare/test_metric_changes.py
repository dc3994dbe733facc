"""What is paired of each metric, and what is said where nothing can be."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from build_samples import make_graph
from compare_samples import Recorded, side
from scipy import stats as scipy_stats

from dem_build.compare import Basis, Side, SignificanceTest, compare
from dem_build.errors import StoreError
from dem_build.report.comparison import Trend
from dem_build.report.results import Results

ROWS = [(f"question {i}", "answer"[: 1 + i % 6]) for i in range(20)]
DOCS = [f"document {i}" for i in range(30)]


def losses(*shifts):
    return [2.0 * len(answer) + shifts[i % len(shifts)] for i, (_, answer) in enumerate(ROWS)]


def right(count):
    """The documents, of which so many are right."""
    return [(text, {"acc": float(i < count)}) for i, text in enumerate(DOCS)]


def change_of(comparison, model="composed", task="loss:math", metric="loss"):
    (found,) = [m for m in comparison.metrics if (m.model, m.task, m.metric) == (model, task, metric)]
    return found


def built(omega=0.5, *, tests=ROWS, loss=None, docs=None, graph=None, **more):
    """A side of a recipe whose composed model has an ω; what it lost, and what it answered."""
    losses_of = {("composed", "math"): loss or losses(0.0), ("base", "math"): [2.0] * len(tests)}
    tasks = {("composed", "arc_easy"): docs or right(10), ("base", "arc_easy"): right(5)}
    made = Recorded(tests={"math": tests}, losses=losses_of, tasks=tasks, **more)
    return side(graph or make_graph(omega=omega), made)


def test_a_side_against_itself_has_changes_of_zero_alone():
    comparison = compare(built(), built())
    assert comparison.same
    assert {(m.basis, m.change.delta, m.trend) for m in comparison.metrics} == {
        (Basis.SAME, 0.0, Trend.NOISE)
    }
    assert all(m.corrected is None for m in comparison.metrics)


def test_a_loss_is_paired_by_row():
    before, after = losses(0.0), losses(-0.5, -0.3, -0.4)
    change = change_of(compare(built(loss=before), built(0.25, loss=after)))
    tokens = sum(len(answer) for _, answer in ROWS)
    assert (change.basis, change.rows.common, change.data_changed) == (Basis.ROWS, 20, False)
    assert change.change.delta == pytest.approx((sum(after) - sum(before)) / tokens, rel=1e-5)
    assert change.change.delta == pytest.approx(change.after.value - change.before.value, rel=1e-4)
    assert change.trend is Trend.BETTER


def test_the_rows_of_one_prompt_are_one_unit():
    """Ten prompts with two answers each, of which both change alike."""
    twice = [(f"question {i // 2}", "ab" if i % 2 else "abc") for i in range(20)]
    before = [2.0 * len(answer) for _, answer in twice]
    apart = np.repeat(np.linspace(-1.0, 0.5, 10), 2)
    one, other = (
        built(omega, tests=twice, loss=loss)
        for omega, loss in ((0.5, before), (0.25, (before + apart).tolist()))
    )
    change = change_of(compare(one, other))
    of_prompts, tokens = 2 * np.linspace(-1.0, 0.5, 10), 5 * 10
    delta = of_prompts.sum() / tokens
    assert change.rows.common == 20
    assert change.change.delta == pytest.approx(delta, rel=1e-5)
    error = np.sqrt(10 / 9 * ((of_prompts - delta * 5) ** 2).sum()) / tokens
    assert change.change.stderr == pytest.approx(error, rel=1e-5)
    few = twice[:10]  # of five prompts
    told = change_of(compare(built(tests=few, loss=before[:10]), built(0.25, tests=few, loss=[1.0] * 10)))
    assert "of 5 independent rows it cannot be told how sure it is" in told.note


def test_documents_are_paired_by_their_places_while_the_data_are_the_same():
    change = change_of(compare(built(), built(0.25, docs=right(20))), task="arc_easy", metric="acc")
    assert (change.basis, change.rows.common) == (Basis.DOCUMENTS, 30)
    assert change.change.method is SignificanceTest.MCNEMAR
    assert change.change.p == pytest.approx(2 * 0.5**10)  # ten documents, all of them for the better
    assert change.trend is Trend.BETTER


def test_exchanging_the_sides_changes_signs_and_trends_alone():
    one, other = built(), built(0.25, loss=losses(0.4, 0.5), docs=right(25))
    there, back = compare(one, other), compare(other, one)
    for forth, reverse in zip(there.metrics, back.metrics, strict=True):
        assert forth.change.delta == -reverse.change.delta
        assert (forth.change.stderr, forth.change.p, forth.corrected) == (
            reverse.change.stderr,
            reverse.change.p,
            reverse.corrected,
        )
        assert (forth.rows is None) == (reverse.rows is None)
    trends = [(m.trend, n.trend) for m, n in zip(there.metrics, back.metrics, strict=True)]
    assert (Trend.WORSE, Trend.BETTER) in trends
    assert (Trend.BETTER, Trend.WORSE) in trends


def test_every_tested_metric_counts_in_the_correction():
    comparison = compare(built(), built(0.25, loss=losses(-0.4, -0.5), docs=right(16)))
    task = change_of(comparison, task="arc_easy", metric="acc")
    assert task.change.p == pytest.approx(2 * 0.5**6)
    loss = change_of(comparison)
    # Two are tested: the base is the same model on both sides, so nothing of it is.
    assert loss.corrected == pytest.approx(min(1, 2 * loss.change.p))
    assert task.corrected == pytest.approx(task.change.p)


def test_where_rows_were_added_only_those_of_both_count():
    more = [*ROWS[3:], ("another question", "four"), ("and another", "five")]
    loss = [2.0 * len(answer) for _, answer in more]
    loss[-1] = 1e6  # of a row that the first side has not
    graph = make_graph(omega=0.25)
    data = graph.actions["data:math"]
    other = replace(
        graph,
        actions=dict(graph.actions) | {"data:math": replace(data, params=data.params | {"max_length": 32})},
    )
    change = change_of(compare(built(loss=losses(0.0)), built(tests=more, loss=loss, graph=other)))
    assert (change.rows.common, change.rows.only_before, change.rows.only_after) == (17, 3, 2)
    assert change.data_changed
    assert change.change.delta == pytest.approx(0.0, abs=1e-6)
    assert "only the 17 rows of both count" in change.note


def test_a_row_whose_answer_was_edited_is_not_the_same_row():
    edited = [(ROWS[0][0], "another"), *ROWS[1:]]
    loss = [2.0 * len(answer) for _, answer in edited]
    graph = make_graph(omega=0.25)
    change = change_of(compare(built(), built(tests=edited, loss=loss, graph=graph)))
    assert (change.rows.common, change.rows.only_before, change.rows.only_after) == (19, 1, 1)


def other_task(graph):
    """The graph with its task's data at another commit."""
    changed = {
        name: replace(a, params=a.params | {"dataset_revision": "f" * 40})
        for name, a in graph.actions.items()
        if name.startswith("eval:")
    }
    return replace(graph, actions=dict(graph.actions) | changed)


@pytest.mark.parametrize("hashed", [True, False])
def test_documents_of_other_data_are_paired_by_their_hashes(hashed):
    """Also where one side's record is of a version that kept none: then by the documents themselves."""
    docs = [("new", {"acc": 1.0}), *reversed(right(20)[4:])]
    graph = other_task(make_graph(omega=0.25))
    change = change_of(
        compare(built(hashed=hashed), built(docs=docs, graph=graph)), task="arc_easy", metric="acc"
    )
    assert (change.rows.common, change.rows.only_before, change.rows.only_after) == (26, 4, 1)
    assert change.common_before == pytest.approx(6 / 26)
    assert change.common_after == pytest.approx(16 / 26)
    assert change.change.delta == pytest.approx(10 / 26)


def test_the_same_model_on_other_data_has_no_change_to_find():
    docs = [("new", {"acc": 1.0}), *right(5)]
    made = Recorded(tests={"math": ROWS}, tasks={("base", "arc_easy"): docs, ("composed", "arc_easy"): docs})
    change = change_of(compare(built(), side(other_task(make_graph()), made)), "base", "arc_easy", "acc")
    assert (change.change.delta, change.change.p, change.corrected) == (0.0, None, None)
    assert change.trend is Trend.NOISE


@pytest.mark.parametrize(
    ("values", "recorded"),
    [
        pytest.param([[0, 1]] * 30, {"f1": 0.4, "f1_stderr": 0.03}, id="pairs-of-labels"),
        pytest.param([-2.5] * 30, {"perplexity": math.exp(2.5), "perplexity_stderr": 0.4}, id="exp-of-mean"),
    ],
)
def test_a_metric_that_is_no_mean_of_documents_is_not_paired(values, recorded):
    """lm-eval makes F1 of all documents at once, and a perplexity of the mean's exponential."""
    metric = next(iter(recorded))

    def one(omega, shift, graph=None):
        class Other(Recorded):
            def make(self, action, known):
                record = super().make(action, known)
                if action.name == "eval:composed:arc_easy":
                    moved = {name: value + shift * (name == metric) for name, value in recorded.items()}
                    record.outputs["metrics"] = self.put(json.dumps(moved).encode())
                return record

        docs = [(text, {"acc": 0.0, metric: value}) for text, value in zip(DOCS, values, strict=True)]
        return side(graph or make_graph(omega=omega), Other(tasks={("composed", "arc_easy"): docs}))

    change = change_of(compare(one(0.5, 0.0), one(0.25, 0.1)), task="arc_easy", metric=metric)
    stderr = math.hypot(*[recorded[f"{metric}_stderr"]] * 2)
    assert (change.basis, change.rows, change.change.method) == (
        Basis.VALUES,
        None,
        SignificanceTest.UNPAIRED,
    )
    assert change.change.stderr == pytest.approx(stderr)
    assert change.change.p == pytest.approx(2 * scipy_stats.norm.sf(0.1 / stderr))
    assert "not the mean of what its documents have" in change.note
    # Of other documents there is no change to tell.
    change = change_of(
        compare(one(0.5, 0.0), one(0.25, 0.1, other_task(make_graph(omega=0.25)))),
        task="arc_easy",
        metric=metric,
    )
    assert (change.basis, change.change, change.trend) == (Basis.NOTHING, None, Trend.UNKNOWN)


def test_of_published_results_two_values_are_compared_and_that_is_said():
    before, after = built(), built(0.25, docs=right(20))
    alone = [replace(one, build=Side("none").build, keyed=False) for one in (before, after)]
    comparison = compare(*alone)
    assert not comparison.keys.changes
    assert not compare(before, alone[1]).keys.changes  # nor where one side has some
    change = change_of(comparison, task="arc_easy", metric="acc")
    assert (change.basis, change.data_changed) == (Basis.VALUES, None)
    assert "nothing is known row by row" in change.note
    assert (
        change.change.stderr > change_of(compare(before, after), task="arc_easy", metric="acc").change.stderr
    )


def test_rows_that_cannot_be_read_leave_two_values():
    before, after = built(), built(0.25, loss=losses(-0.5))

    def lost(output):
        if output == after.build.records["loss:composed:math"].outputs["rows"]:
            raise StoreError("it is lost")
        return read(output)

    read = after.build.read
    change = change_of(compare(before, replace(after, build=replace(after.build, read=lost))))
    assert change.basis is Basis.VALUES
    assert "it is lost" in change.note


def test_what_one_side_alone_measured_has_no_change():
    graph = make_graph(omega=0.25)
    made = Recorded(tests={"math": ROWS})
    after = side(graph, made, only=[n for n in graph.actions if not n.startswith("eval:composed")])
    change = change_of(compare(built(), after), task="arc_easy", metric="acc")
    assert (change.after, change.change, change.basis) == (None, None, Basis.NOTHING)
    assert change.note == "measured on the first side alone"
    assert change.document()["delta"] is None


def test_a_value_that_is_no_number_is_no_change():
    results = Results({"composed": {"t": {"acc": math.nan}}})
    one = replace(built(), results=results, build=Side("none").build, keyed=False)
    (change,) = compare(one, one).metrics
    assert change.change is None
    json.dumps(compare(one, one).document(), allow_nan=False)
