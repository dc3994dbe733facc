"""What a build cost: read from records, by device, and reckoned against mixing."""

from __future__ import annotations

import dataclasses
import io

import pytest
from build_samples import Made, make_graph, outcome_of
from rich.console import Console

from dem_build.cli.view_cost import cost_line
from dem_build.execute.outcome import Done, Result
from dem_build.graph import Action, Evaluation
from dem_build.report.cost import DEM, Cost, Part, by_device, part_of, read_costs, spent
from dem_build.report.documents import build_document
from dem_build.report.mixing import Basis
from dem_build.report.reckoning import Reckoning, reckon
from dem_build.report.recorded import Recorded
from dem_build.report.results import Results
from dem_build.report.summary import summary

GPU, CPU = "NVIDIA H100", "cpu (x86_64), 8 threads"
NAMES = ("add", "copy", "upper")
MINE = {"device_seconds": 3.0, "seconds": 9.0, "device": "cpu (x86_64)", "threads": 2}


def read(provenance, graph=None):
    graph, made = graph or make_graph(), Made(provenance=provenance)
    return read_costs(Recorded(graph, made.build(graph), made.read))


def compared(names=NAMES, mixtures=("mix",), own=()):
    """A graph of datasets, a search of ω, mixtures, and one evaluation of each model; those in `own` have a length."""
    graph = make_graph(names)
    actions = {n: a for n, a in graph.actions.items() if a.evaluation is None}
    actions["tune"] = Action("tune", "tune", {})
    for mixture in mixtures:
        length = {"epochs": 1.0} if mixture in own else {}
        actions[f"data:{mixture}"] = Action(f"data:{mixture}", "mix", length)
        actions[f"vector:{mixture}"] = Action(f"vector:{mixture}", "finetune", {})
        actions[f"tune:{mixture}"] = Action(f"tune:{mixture}", "tune", {})
        actions[f"model:{mixture}"] = Action(f"model:{mixture}", "compose", {})
    for model in ("composed", "base", *mixtures):
        name = f"loss:{model}:add"
        actions[name] = Action(name, "loss", {}, evaluation=Evaluation(model, "loss:add"))
    return dataclasses.replace(graph, actions=actions, baselines=dict.fromkeys(mixtures, "mixing"))


# Seconds and tokens by the beginning of an action's name.
TOOK = {
    "base": (1, None), "data": (2, None), "vector": (100, 1000), "tune": (20, 500), "model": (5, None),
    "loss": (10, 90), "vector:mix": (310, 3010), "data:mix": (4, None), "tune:mix": (50, None),
}  # fmt: skip


def costs_of(graph, **changed):
    """The cost of every action: as `TOOK` says, all on the GPU, but for what is `changed` (`_` for `:`)."""
    costs = {}
    for action in graph:
        seconds, tokens = TOOK.get(action.name) or TOOK[action.name.partition(":")[0]]
        costs[action.name] = Cost(part_of(action, graph), GPU, float(seconds), tokens=tokens)
    for written, change in changed.items():
        name = written.replace("_", ":")
        costs[name] = dataclasses.replace(costs[name], **change)
    return costs


def reckoned(graph=None, **changed) -> Reckoning:
    graph = graph or compared()
    return reckon(graph, costs_of(graph, **changed))


def refusal(reckoning):
    assert reckoning.mixing is None
    [said] = [note for note in reckoning.notes if note.startswith("There is no comparison")]
    return said


# Reading


def test_device_seconds_and_tokens_are_those_that_were_recorded():
    costs = read({"vector:math": MINE | {"tokens": {"seen": 700, "trained": 300}}})
    assert costs["vector:math"] == Cost(
        Part.MODEL, "cpu (x86_64), 2 threads", 3.0, tokens=700, trained_tokens=300
    )


def test_an_older_record_has_its_wall_time_and_that_is_said():
    graph = make_graph()
    costs = read({"data:math": {"seconds": 9.0}}, graph)
    assert (costs["data:math"].seconds, costs["data:math"].wall) == (9.0, True)
    [untimed, wall] = reckon(graph, costs).notes
    assert "wall time: data:math." in wall
    assert "not recorded" in untimed
    assert "data:math" not in untimed


@pytest.mark.parametrize("value", [None, True, "3", -1.0, float("nan"), float("inf"), 10**400, [3]])
def test_a_time_that_is_no_time_is_unknown(value):
    told = {"vector:math": {"device_seconds": value, "tokens": {"seen": value}}, "model": {"tokens": value}}
    costs = read(told)
    assert costs["vector:math"].seconds is None
    assert costs["vector:math"].tokens is None
    assert by_device(costs) == {}


def test_an_older_record_of_a_cpu_step_has_the_name_of_its_hosts_cpu():
    told = {
        "vector:math": MINE | {"host": "a"},
        "data:math": {"seconds": 1.0, "host": "a", "threads": 2},
        "model": {"seconds": 1.0, "host": "b"},
        "eval:base:arc_easy": {"seconds": 1.0, "host": "a"},
    }
    costs = read(told)
    assert costs["data:math"].device == costs["vector:math"].device == "cpu (x86_64), 2 threads"
    assert costs["model"].device == "cpu"
    assert costs["eval:base:arc_easy"].device == "a device that was not recorded"


def test_a_cpu_with_other_threads_is_another_device_and_a_gpu_is_not():
    costs = read({"base": MINE, "data:math": MINE | {"threads": 1}})
    assert by_device(costs) == {"cpu (x86_64), 2 threads": 3.0, "cpu (x86_64), 1 thread": 3.0}
    costs = read({n: MINE | {"device": GPU, "threads": t} for n, t in (("base", 2), ("data:math", 4))})
    assert by_device(costs) == {GPU: 6.0}


def test_a_result_that_two_actions_share_costs_once():
    graph = make_graph()
    actions = dict(graph.actions)
    actions["model:math"] = dataclasses.replace(actions["model"], name="model:math")
    graph = dataclasses.replace(graph, actions=actions)
    costs = read({"model": MINE, "model:math": MINE}, graph)
    assert costs["model:math"].same_as == "model"
    assert by_device(costs) == {"cpu (x86_64), 2 threads": 3.0}


def test_baselines_analysis_and_references_are_no_part_of_what_dem_cost():
    graph = compared(mixtures=("mix", "twin"))
    actions = dict(graph.actions) | {"ladder": Action("ladder", "ladder", {})}
    graph = dataclasses.replace(graph, actions=actions)
    parts = {name: part_of(action, graph) for name, action in graph.actions.items()}
    of_dem = {name for name, part in parts.items() if part in DEM}
    assert of_dem == {"tune", "model", "loss:composed:add", *(f"vector:{n}" for n in NAMES)}
    assert {parts["base"], *(parts[f"data:{n}"] for n in NAMES)} == {Part.SHARED}
    assert parts["loss:base:add"] is Part.REFERENCES
    assert parts["ladder"] is Part.ANALYSIS
    assert {parts[n] for n in ("data:mix", "vector:twin", "tune:mix", "loss:mix:add")} == {Part.BASELINES}


# Against mixing


def test_a_mixture_that_ran_is_measured_and_its_scale_costs_nothing():
    mixing = reckoned().mixing
    assert (mixing.basis, mixing.of, mixing.projected) == (Basis.MEASURED, ("mix",), False)
    assert mixing.dem.total == 3 * 100 + 20 + 5 + 10
    assert mixing.mixture.total == 310 + 4 + 5 + 10
    assert (mixing.dem.tokens, mixing.mixture.tokens) == (3000, 3010)


def test_a_mixture_that_read_more_than_the_vectors_is_not_said_to_have_read_as_much():
    read = [" ".join(reckoned(vector_mix={"tokens": tokens}).mixing.sentences()) for tokens in (3010, 3400)]
    assert "One mixture on as many tokens as the vectors, 3k: " in read[0]
    assert "One mixture on 3.4k tokens, planned as many as the vectors, which read 3k: " in read[1]


def test_what_dem_cost_is_the_sum_of_its_parts():
    reckoning = reckoned()
    assert by_device(reckoning.costs, DEM) == {GPU: reckoning.mixing.dem.total}


def test_ratio_saving_and_break_even_follow_from_both_costs():
    mixing = reckoned().mixing
    assert mixing.tried == 3
    assert mixing.best.total == 3 * 329
    assert mixing.ratio(3) == pytest.approx(987 / 335)
    assert mixing.saving(3) == pytest.approx(1 - 335 / 987)
    assert mixing.break_even == pytest.approx(335 / 329)
    assert mixing.cheaper_from == 2
    assert mixing.ratio(1) < 1 < mixing.ratio(2)


def test_several_mixtures_count_as_their_mean_and_each_as_one_that_was_tried():
    graph = compared(NAMES[:2], mixtures=("mix", "twin", "third"))
    mixing = reckoned(graph, vector_twin={"seconds": 400.0}, vector_third={"seconds": 550.0}).mixing
    assert mixing.mixture.training == pytest.approx((310 + 400 + 550) / 3)
    assert (mixing.tried, mixing.of) == (3, ("mix", "twin", "third"))
    assert "cost 21m" in mixing.headline.replace("would ", "")
    assert "would" not in mixing.headline, "all three ran"


def test_without_a_mixture_its_training_is_projected_from_the_vectors_speed():
    graph = compared(mixtures=())
    mixing = reckoned(graph, vector_add={"seconds": 130.0, "tokens": 2000.0}).mixing
    assert mixing.basis is Basis.OF_VECTORS
    assert mixing.mixture.training == pytest.approx(4000 * (330 / 4000))
    assert mixing.mixture.total == pytest.approx(330 + 10)
    assert "projected" in mixing.headline


def test_a_mixture_of_another_length_gives_its_speed():
    graph = compared(own=("mix",))
    mixing = reckoned(graph, vector_mix={"seconds": 500.0, "tokens": 1000.0}).mixing
    assert (mixing.basis, mixing.of) == (Basis.OF_MIXTURES, ("mix",))
    assert mixing.mixture.training == pytest.approx(3000 * 0.5)
    assert mixing.mixture.tokens == 3000


def test_a_mixture_that_was_not_evaluated_takes_as_long_as_the_composed_model():
    graph = compared()
    actions = {n: a for n, a in graph.actions.items() if n != "loss:mix:add"}
    mixing = reckoned(dataclasses.replace(graph, actions=actions)).mixing
    assert mixing.mixture.evaluating == mixing.dem.evaluating == 10


def test_where_mixing_is_cheaper_the_saving_is_below_zero_and_said():
    graph = compared(NAMES[:2])
    mixing = reckoned(graph, tune={"seconds": 2000.0}).mixing
    assert mixing.ratio(2) == pytest.approx(658 / 2215)
    assert mixing.saving(2) == pytest.approx(1 - 2215 / 658)
    assert "0.30 times as much: DEM costs 237% more" in mixing.headline


def test_one_dataset_costs_its_vector_and_all_that_follows_and_mixing_a_whole_mixture():
    edit = reckoned(vector_upper={"seconds": 40.0}).mixing.edits["upper"]
    assert (edit.own, edit.rest) == (42, 20 + 5 + 10)
    assert edit.mixture == 2 + 329
    assert edit.ratio == pytest.approx(331 / 77)


def test_a_dataset_more_does_not_take_vectors_from_elsewhere_in_again():
    graph = compared()
    actions = dict(graph.actions) | {"vector:code": Action("vector:code", "extract", {})}
    mixing = reckoned(dataclasses.replace(graph, actions=actions), vector_code={"seconds": 500.0}).mixing
    assert mixing.dem.making == 505
    assert mixing.edits["upper"].rest == 20 + 5 + 10


def test_a_training_that_two_datasets_share_read_its_tokens_once():
    mixing = reckoned(compared(mixtures=()), vector_upper={"same_as": "vector:add"}).mixing
    assert (mixing.dem.training, mixing.dem.tokens) == (200, 2000)
    assert mixing.mixture.training == 200


def test_composing_on_another_device_is_said_and_not_added():
    reckoning = reckoned(model={"device": CPU}, model_mix={"device": CPU}, data_mix={"device": CPU})
    assert reckoning.mixing.dem.making == reckoning.mixing.mixture.making == 0
    assert f"Composing took 5.0s on {CPU}, which is not in the comparison." in reckoning.notes
    assert "The build ran on several devices, whose seconds are not added up." in reckoning.notes
    assert by_device(reckoning.costs)[CPU] == 14


def test_evaluations_on_another_device_leave_both_sides():
    reckoning = reckoned(loss_composed_add={"device": CPU})
    assert reckoning.mixing.dem.evaluating == reckoning.mixing.mixture.evaluating == 0
    assert any("Evaluations did not all run on" in note for note in reckoning.notes)


def test_a_mixture_on_another_device_is_projected_instead():
    reckoning = reckoned(vector_mix={"device": CPU})
    assert reckoning.mixing.basis is Basis.OF_VECTORS
    assert f"mix was trained on {CPU}: its seconds are not compared." in reckoning.notes


@pytest.mark.parametrize("name", ["vector_copy", "tune"])
def test_trainings_and_search_on_several_devices_are_not_compared(name):
    reckoning = reckoned(**{name: {"device": CPU}})
    assert f"ran on several devices ({GPU}; {CPU})" in refusal(reckoning)
    assert "The vectors read 3k tokens, the best of 3 mixtures 9k." in refusal(reckoning)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"vector_copy": {"seconds": None}}, "how long vector:copy took is not recorded"),
        ({f"vector_{n}": {"seconds": 0.0} for n in NAMES}, "the trainings took no time"),
        ({f"vector_{n}": {"tokens": 0.0} for n in NAMES}, "the tokens of the trainings are not recorded"),
        ({"vector_copy": {"tokens": None}}, "the tokens of the trainings are not recorded"),
    ],
)
def test_what_is_not_known_is_not_compared(changed, why):
    assert why in refusal(reckoned(compared(mixtures=()), **changed))


def test_a_build_that_is_not_whole_is_not_compared():
    graph = compared()
    costs = {n: c for n, c in costs_of(graph).items() if n not in ("vector:copy", "model")}
    assert "vector:copy, model did not run yet" in refusal(reckon(graph, costs))


def test_one_dataset_has_nothing_to_be_mixed_with():
    assert reckoned(compared(("add",), mixtures=())) == Reckoning(costs_of(compared(("add",), mixtures=())))


def test_vectors_from_elsewhere_cost_what_nobody_knows():
    graph = compared()
    actions = dict(graph.actions) | {"vector:style": Action("vector:style", "extract", {})}
    reckoning = reckoned(dataclasses.replace(graph, actions=actions))
    assert reckoning.mixing.dem.training == 300
    assert any("not counted: style. A mixture would need" in note for note in reckoning.notes)


def test_a_search_that_began_with_what_others_measured_is_said_to_cost_more_from_nothing():
    costs = read({"vector:math": MINE | {"earlier_passes": 12}})
    assert costs["vector:math"].began_from_others
    begun = "The search for ω began with passes of earlier searches"
    assert [n for n in reckoned(tune={"began_from_others": True}).notes if n.startswith(begun)]
    assert not [note for note in reckoned().notes if "earlier searches" in note]


# Showing


def test_a_build_spends_nothing_on_what_is_cached_and_failures_are_counted_apart():
    graph, made = make_graph(), Made(provenance={"vector:math": MINE})
    records = made.build(graph)
    failed = Result(graph.actions["model"], Done.FAILED, 4.5)
    outcome = outcome_of(graph, records, {"vector:math": Done.RAN}, model=failed)
    assert spent(outcome).devices == {"cpu (x86_64), 2 threads": 12.5}
    assert spent(outcome).unfinished == 4.5
    assert spent(outcome_of(graph, records)).devices == {}
    document = build_document("r.toml", outcome, None, None)
    assert document["spent"] == {"devices": {"cpu (x86_64), 2 threads": 12.5}, "unfinished": 4.5}


def test_the_summary_says_what_was_spent_now_and_what_mixing_costs():
    graph, made = make_graph(), Made(provenance={"vector:math": MINE})
    records = made.build(graph)
    results = Results(cost=reckoned())
    text = summary("tiny", outcome_of(graph, records, {"vector:math": Done.RAN}), results)
    assert "this build: 12s on cpu" in text.replace("\\", "")
    assert (
        "DEM cost 5m 35s on NVIDIA H100; the best of 3 mixtures would cost 16m 27s, projected, 2.95" in text
    )
    assert "times as much: DEM saves 66%." in text
    assert "this build: nothing" in summary("tiny", outcome_of(graph, records), results)


def test_the_terminal_has_a_line_for_it_and_none_where_nothing_is_known():
    console = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    cost_line(Reckoning(), console)
    assert console.file.getvalue() == ""
    cost_line(reckoned(compared(mixtures=())), console)
    assert console.file.getvalue() == (
        "cost     5m 52s on NVIDIA H100: DEM 5m 35s, best of 3 mixtures 15m 30s (projected), 2.78 times as much\n"
    )


def test_documents_hold_every_number():
    document = reckoned().document()
    mixing = document["mixing"]
    assert mixing["best"]["total"] == mixing["mixtures"] * mixing["mixture"]["total"] == 987
    assert mixing["ratio"] == pytest.approx(1 / (1 - mixing["saving"]))
    assert set(mixing["datasets"]) == set(NAMES)
    assert document["devices"] == {GPU: sum(a["device_seconds"] for a in document["actions"].values())}
    assert document["actions"]["tune"]["tokens"] == 500
