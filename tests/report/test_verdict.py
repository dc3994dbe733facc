"""The verdict is written from the numbers, and says also what a user would rather not hear."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from page_samples import make_choice

from dem_build.actions.choose.read import read_choice
from dem_build.actions.loss.read import PairedRows, RowLosses
from dem_build.engine.outcome import Outcome
from dem_build.report.baselines import RecordedBaseline
from dem_build.report.comparison import gains, mean, scales
from dem_build.report.documents import results_document
from dem_build.report.gates import GateResult
from dem_build.report.results import Results
from dem_build.report.summary import summary
from dem_build.report.verdict import Finding, judge

NAMES = ("math", "chat")


def results(stderr=0.01, probes=(), vectors=NAMES, **models):
    """Test losses of models on math, chat and then probes; more tasks as a dictionary at the end."""
    table = {}
    for model, losses in models.items():
        named = zip((*NAMES, *probes), losses, strict=False)
        table[model] = {f"loss:{n}": {"loss": v, "loss_stderr": stderr} for n, v in named if v is not None}
    return Results(table, datasets=NAMES, probes=tuple(probes), vectors=vectors)


BASE = (3.0, 4.0)
ALONE = {"math": (2.0, 4.5), "chat": (3.5, 2.0)}  # gains 1 and 2 on their own


@pytest.mark.parametrize(
    ("composed", "finding", "headline"),
    [
        ((2.5, 3.0), Finding.HELPED, "Composing helped both datasets."),
        ((2.5, 4.001), Finding.HELPED, "Composing helped 1 of 2 datasets."),
        ((2.5, 4.5), Finding.MIXED, "Composing helped 1 of 2 datasets and harmed chat."),
        ((3.001, 4.001), Finding.UNCHANGED, "Composing made no clear difference to any dataset."),
        ((3.001, 4.5), Finding.HARMED, "Composing did not help: it harmed 1 of 2 datasets."),
    ],
)
def test_the_headline_follows_from_the_changes_against_the_base(composed, finding, headline):
    verdict = judge(results(base=BASE, composed=composed))
    assert (verdict.finding, verdict.headline) == (finding, headline)


def test_a_baseline_that_is_better_beyond_the_errors_won():
    verdict = judge(results(base=BASE, composed=(2.5, 3.0), mixing=(2.0, 2.2), uniform=(2.9, 3.9), **ALONE))
    assert (verdict.finding, verdict.headline) == (Finding.BEATEN, "Mixing won.")
    said = " ".join(verdict.sentences)
    assert "Better than composing (mean gain recovered, composed 0.500 ±0.008): mixing 0.950 ±" in said
    assert "uniform 0.075 ±" in said


def test_the_model_that_was_chosen_is_no_rival_of_itself():
    found = results(base=BASE, composed=(2.5, 3.0), match=(2.5, 3.0), sum=(2.9, 3.9), **ALONE)
    assert "beat" not in judge(found).headline
    chosen = judge(replace(found, found={read_choice: make_choice(NAMES, chosen="match")}))
    assert chosen.headline == "Composing helped both datasets and beat sum and every vector alone."
    assert "match" not in " ".join(chosen.sentences)


def test_a_mixture_that_won_is_called_one():
    found = results(base=BASE, composed=(2.5, 3.0), even=(2.0, 2.2))
    headlines = [
        judge(replace(found, baselines={"even": RecordedBaseline(method)})).headline
        for method in ("mixing", "uniform")
    ]
    assert headlines == ["A mixture won: even.", "Even won."]


def test_a_model_that_was_not_evaluated_on_every_dataset_is_not_compared():
    verdict = judge(results(base=BASE, composed=(2.5, 3.0), math=(2.0, None), chat=(None, 2.0)))
    assert (verdict.finding, verdict.headline) == (Finding.HELPED, "Composing helped both datasets.")
    assert (
        "Not compared, without a test loss on the same datasets: math's vector alone and chat's vector alone."
        in verdict.sentences
    )
    assert not any("of its kind" in s for s in verdict.sentences)


@pytest.mark.parametrize("lost", [None, math.nan])
def test_a_composed_model_that_failed_on_a_dataset_beats_nobody(lost):
    verdict = judge(results(base=BASE, composed=(lost, 3.0), mixing=(2.0, 3.5)))
    assert verdict.headline == "Composing helped the one dataset."
    assert "Not compared, without a test loss on the same datasets: mixing." in verdict.sentences


def test_a_baseline_within_the_errors_has_not_won():
    verdict = judge(results(base=BASE, composed=(2.5, 3.0), mixing=(2.5, 2.995)))
    assert verdict.headline == "Composing helped both datasets."
    assert any(
        s.startswith("Not to be told from composing (mean test loss, composed 2.750 ±0.007): mixing 2.748 ±")
        for s in verdict.sentences
    )


def test_a_baseline_that_is_better_beyond_the_errors_won_though_one_leads_it_within_the_errors():
    found = results(base=BASE, composed=(2.5, 3.0), steady=(2.3, 2.8), wild=(2.0, 2.5))
    for metrics in found.table["wild"].values():
        metrics["loss_stderr"] = 2.0
    verdict = judge(found)
    assert (verdict.finding, verdict.headline) == (Finding.BEATEN, "Steady won.")


def few(found, name, rows=5):
    """The same results, with so few test rows of one dataset."""
    table = {m: {t: dict(metrics) for t, metrics in tasks.items()} for m, tasks in found.table.items()}
    for tasks in table.values():
        tasks[f"loss:{name}"]["rows"] = rows
    return replace(found, table=table)


def test_a_dataset_of_few_test_rows_does_not_hide_who_won_on_the_others():
    verdict = judge(few(results(base=BASE, composed=(2.5, 3.0), mixing=(2.0, 3.5), **ALONE), "chat"))
    assert (verdict.finding, verdict.headline) == (Finding.BEATEN, "Mixing won.")
    said = " ".join(verdict.sentences)
    assert "Better than composing (mean gain recovered, composed 0.500 ±0.014): mixing 1.000" in said
    assert "These means are without chat: fewer than 8 prompts to test on." in said


def test_where_all_datasets_have_few_test_rows_nothing_is_known_of_others():
    found = few(few(results(base=BASE, composed=(2.5, 3.0), mixing=(2.0, 2.2)), "chat"), "math")
    verdict = judge(found)
    assert (verdict.finding, verdict.headline) == (Finding.UNKNOWN, "Not judged: the errors are unknown.")
    assert any(s.startswith("Beside composing, with an unknown error") for s in verdict.sentences)
    tasks = {"base": 0.3, "composed": 0.5}
    for model, accuracy in tasks.items():
        found.table[model]["arc"] = {"acc": accuracy, "acc_stderr": 0.01}
    assert judge(found).headline == "Composing helped the one task."


def test_a_small_difference_on_the_same_rows_is_clear_though_the_losses_have_large_errors():
    hard = np.linspace(1.0, 9.0, 40)
    apart = np.tile([0.05, 0.15], 20)
    rows = {
        m: RowLosses(list(hard - times * apart), [1] * 40)
        for m, times in (("base", 0), ("composed", 1), ("mix", 2))
    }
    found = results(stderr=0.4, base=(5.0,), composed=(4.9,), mix=(4.8,))
    found = replace(found, rows=PairedRows({m: {"loss:math": one} for m, one in rows.items()}))
    verdict = judge(found)
    assert (verdict.finding, verdict.headline) == (Finding.BEATEN, "Mix won.")
    assert "fell on 1 (math -0.100 ±0.008)" in verdict.sentences[0]


def test_what_composing_beat_is_said_where_it_beat_all_of_it():
    verdict = judge(results(base=BASE, composed=(2.1, 2.1), mixing=(2.5, 3.0), **ALONE))
    assert verdict.headline == "Composing helped both datasets and beat mixing and every vector alone."
    alone = [s for s in verdict.sentences if "vector alone, the best" in s]
    assert alone[0].count("vector alone") == 1, "only the best of them is compared in words"


def test_a_vector_that_was_not_evaluated_alone_was_not_beaten():
    found = results(base=BASE, composed=(2.1, 2.1), math=ALONE["math"])
    assert judge(found).headline == "Composing helped both datasets and beat math's vector alone."


def test_gain_recovered_is_0_for_the_base_and_1_for_the_vector_alone():
    found = results(base=BASE, composed=(2.5, 3.0), **ALONE)
    assert {n: m.value for n, m in gains(found, "base").items()} == {"math": 0.0, "chat": 0.0}
    assert gains(found, "math")["math"].value == 1.0
    assert gains(found, "composed")["math"].value == 0.5
    assert gains(found, "composed")["chat"].stderr == pytest.approx(math.hypot(0.01, 0.01) / 2.0)


def test_the_mean_gain_has_the_errors_of_its_parts():
    found = gains(results(base=BASE, composed=(2.5, 3.0), **ALONE), "composed")
    whole = mean(found, found)
    assert whole.value == 0.5
    assert whole.stderr == pytest.approx(math.sqrt(2) * math.hypot(0.01, 0.005) / 2)


def test_the_denominator_of_a_gain_has_a_floor_of_two_standard_errors():
    found = results(stderr=0.1, base=(3.0, 4.0), composed=(2.9, 3.0), math=(2.99, 4.0), chat=(3.0, 2.0))
    scale = scales(found)["math"]
    assert scale.floored
    assert scale.gained == pytest.approx(2 * math.hypot(0.1, 0.1))
    assert not scales(found)["chat"].floored


@pytest.mark.parametrize(("alone", "stderr"), [(2.99, 0.1), (2.9999, 1e-7)])
def test_a_vector_that_gains_next_to_nothing_does_not_outweigh_all_others_in_a_mean(alone, stderr):
    losses = {"base": (3.0, 4.0), "composed": (2.7, 3.0), "mix": (2.5, 3.5), "chat": (3.0, 2.0)}
    found = results(stderr=stderr, math=(alone, 4.0), **losses)
    assert scales(found)["math"].floored
    assert scales(found)["math"].gained >= 0.003
    said = judge(found).sentences
    assert said[1].startswith("It recovers 0.500 ±")
    assert said[1].endswith("alone; math left out, whose own vector gains too little to tell.")
    assert any("(mean test loss, composed 2.850 ±" in s and "mix 3.000 ±" in s for s in said)
    weak = results(stderr=0.1, base=(3.0,), composed=(2.7,), math=(2.99,))
    assert (
        "What it recovers cannot be told: the own vector of math gains too little alone."
        in judge(weak).sentences
    )


def test_a_change_beyond_its_standard_error_but_within_its_interval_is_not_called_less_than_the_errors():
    table = {m: {"arc_easy": {"acc": v, "acc_stderr": 0.01}} for m, v in (("base", 0.3), ("composed", 0.32))}
    verdict = judge(Results(table))
    assert verdict.headline == "Composing made no clear difference to any task."
    assert verdict.sentences == ("Tasks against the base: arc_easy acc +0.020 ±0.014 (no clear change).",)


def test_a_gain_takes_the_dataset_own_vector_and_finite_losses():
    assert gains(results(base=BASE, composed=(2.5, 3.0)), "composed") == {}
    assert list(gains(results(base=(math.nan, 4.0), composed=(2.5, 3.0), **ALONE), "composed")) == ["chat"]


def test_probes_and_gates_are_said_and_judge_no_headline():
    found = results(probes=("talk",), base=(3.0, 4.0, 2.0), composed=(2.5, 3.0, 2.4))
    gates = [GateResult("loss:talk", "loss", 2.4, passed=False, why="at most 2.1")]
    verdict = judge(found, gates)
    assert verdict.headline == "Composing helped both datasets."
    assert "Probes, loss against the base: talk +0.400 ±0.014." in verdict.sentences
    assert "0 of 1 gates passed; failed: loss on talk." in verdict.sentences


def test_tasks_judge_where_no_loss_was_measured():
    table = {m: {"arc_easy": {"acc": v, "acc_stderr": 0.01}} for m, v in (("base", 0.3), ("composed", 0.5))}
    verdict = judge(Results(table))
    assert verdict.headline == "Composing helped the one task."
    assert "Tasks against the base: arc_easy acc +0.200 ±0.014." in verdict.sentences


def test_changes_whose_errors_are_unknown_judge_nothing():
    verdict = judge(results(stderr=math.nan, base=BASE, composed=(2.5, 3.0), mixing=(2.0, 2.0)))
    assert (verdict.finding, verdict.headline) == (Finding.UNKNOWN, "Not judged: the errors are unknown.")
    assert "test loss changed with an unknown error on 2" in verdict.sentences[0]
    assert verdict.sentences[1].startswith(
        "Beside composing, with an unknown error (mean test loss, composed 2.750): mixing 2.000"
    )


@pytest.mark.parametrize("table", [{}, {"base": {"loss:math": {"loss": 2.0}}}])
def test_without_a_measurement_in_common_nothing_is_judged(table):
    verdict = judge(Results(table, datasets=("math",)))
    assert verdict.finding is Finding.UNKNOWN
    assert verdict.sentences == ()


def test_of_many_datasets_the_largest_changes_are_named():
    names = tuple(f"d{i}" for i in range(20))
    table = {
        m: {f"loss:{n}": {"loss": 3.0 - s * i / 10, "loss_stderr": 0.01} for i, n in enumerate(names)}
        for m, s in (("base", 0), ("composed", 1))
    }
    (first, *_) = judge(Results(table, datasets=names)).sentences
    assert "(d19 -1.900 ±0.014, d18 -1.800 ±0.014, d17 -1.700 ±0.014, d16 -1.600 ±0.014 and 15 more)" in first


def test_the_summary_and_the_results_say_the_verdict_first():
    found = results(base=BASE, composed=(2.5, 3.0), mixing=(2.0, 2.2), **ALONE)
    assert summary("tiny", Outcome({}), found).splitlines()[2] == "**Mixing won.**"
    said = json.loads(json.dumps(results_document(found), allow_nan=False))["verdict"]
    assert (said["finding"], said["headline"]) == ("another model won", "Mixing won.")
    assert said["gain_recovered"]["composed"]["math"] == {
        "value": 0.5,
        "stderr": pytest.approx(0.01 * math.sqrt(2)),
    }
