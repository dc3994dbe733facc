"""What a build cost: read from records, by device, and compared with mixing."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import replace

import pytest
from build_samples import Made, make_graph, outcome_of
from rich.console import Console

from dem_build.action import Action, Edge, Evaluation, Input
from dem_build.actions import KINDS
from dem_build.engine.outcome import Done, Result
from dem_build.report.baselines import RecordedBaseline
from dem_build.report.cost import DEM, BuildCost, Cost, Part, by_device, part_of, read_costs, spent
from dem_build.report.documents import build_document
from dem_build.report.html.cost import cost
from dem_build.report.inputs import BuildRecords, ReportInputs
from dem_build.report.mixing_cost import build_cost
from dem_build.report.results import Results
from dem_build.report.summary import summary
from dem_build.report.verdict import judge
from dem_build.view.results import cost_line

GPU, CPU = "NVIDIA H100", "cpu (x86_64), 8 threads"
NAMES = ("add", "copy", "upper")
MINE = {"device_seconds": 3.0, "seconds": 9.0, "device": "cpu (x86_64)", "threads": 2}


def read(provenance, graph=None):
    graph, made = graph or make_graph(), Made(provenance=provenance)
    return read_costs(BuildRecords(graph, made.build(graph), made.read))


def compared(names=NAMES, mixtures=("mix",), own=(), *, searched=True, scaled=(), validated=()):
    """A graph of datasets, mixtures, and one evaluation of each model.

    `searched`: ω are searched. `own`: mixtures with a length of their own. `scaled`: those whose scale is searched.
    `validated`: those whose training is.
    """
    graph = make_graph(names)
    actions = {n: a for n, a in graph.actions.items() if a.evaluation is None}
    if searched:
        actions = with_input(actions, Action("tune", KINDS["tune"], {}), "omega")
    for mixture in mixtures:
        length = {"epochs": 1.0} if mixture in own else {}
        rows = Input("data/validation", Edge("data:add", "validation"))
        takes = (rows,) if mixture in validated else ()
        made = [
            Action(f"data:{mixture}", KINDS["mix"], length),
            Action(f"vector:{mixture}", KINDS["finetune"], {}, takes),
            *([Action(f"tune:{mixture}", KINDS["tune"], {})] if mixture in scaled else []),
            Action(f"model:{mixture}", KINDS["compose"], {}),
        ]
        actions |= {action.name: action for action in made}
    for model in ("composed", "base", *mixtures):
        name = f"loss:{model}:add"
        actions[name] = Action(name, KINDS["loss"], {}, evaluation=Evaluation(model, "loss:add"))
    return dataclasses.replace(graph, actions=actions, baselines=dict.fromkeys(mixtures, "mixing"))


def with_input(actions, made, output):
    """The actions, and one more that the model takes an output of."""
    taken = Input(output, Edge(made.name, output))
    model = replace(actions["model"], takes=(*actions["model"].takes, taken))
    return {**actions, made.name: made, "model": model}


# Seconds and tokens by the beginning of an action's name.
TOOK = {
    "base": (1, None), "data": (2, None), "vector": (100, 1000), "tune": (20, 500), "model": (5, None),
    "loss": (10, 90), "vector:mix": (310, 3010), "data:mix": (4, None), "tune:mix": (50, None), "gram": (7, 60),
    "choice": (3, 90),
}  # fmt: skip


def costs_of(graph, **changed):
    """The cost of every action: as `TOOK` says, all on the GPU, but for what is `changed` (`_` for `:`)."""
    costs = {}
    for action in graph:
        seconds, tokens = TOOK.get(action.name) or TOOK[action.name.partition(":")[0]]
        passes = 10.0 if action.name == "tune" else None
        costs[action.name] = Cost(part_of(action, graph), GPU, float(seconds), tokens=tokens, passes=passes)
    for written, change in changed.items():
        name = written.replace("_", ":")
        costs[name] = dataclasses.replace(costs[name], **change)
    return costs


def cost_of(graph=None, **changed) -> BuildCost:
    graph = graph or compared()
    return build_cost(graph, costs_of(graph, **changed))


def refusal(found):
    assert found.mixing is None
    [said] = [note for note in found.notes if note.startswith("There is no comparison")]
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
    [untimed, wall] = build_cost(graph, costs).notes
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
    graph = compared(mixtures=("mix", "twin"), scaled=("mix",))
    actions = dict(graph.actions) | {"ladder": Action("ladder", KINDS["ladder"], {})}
    graph = dataclasses.replace(graph, actions=actions)
    parts = {name: part_of(action, graph) for name, action in graph.actions.items()}
    of_dem = {name for name, part in parts.items() if part in DEM}
    assert of_dem == {"tune", "model", *(f"vector:{n}" for n in NAMES)}
    assert parts["loss:composed:add"] is Part.EVALUATION
    assert {parts["base"], *(parts[f"data:{n}"] for n in NAMES)} == {Part.SHARED}
    assert parts["loss:base:add"] is Part.REFERENCES
    assert parts["ladder"] is Part.ANALYSIS
    assert {parts[n] for n in ("data:mix", "vector:twin", "tune:mix", "loss:mix:add")} == {Part.BASELINES}


# Against mixing


def test_a_mixture_that_ran_is_measured_and_neither_side_has_a_test_evaluation():
    mixing = cost_of().mixing
    assert (list(mixing.each), mixing.count, mixing.trained) == (["mix"], 1, 1)
    assert mixing.dem.total == 3 * 100 + 20 + 5
    assert mixing.each["mix"].total == mixing.one.total == mixing.all.total == 310 + 4 + 5
    assert mixing.all.projected == 0
    assert (mixing.dem.tokens, mixing.one.tokens) == (3000, 3010)


def test_where_the_recipe_names_no_mixture_dem_is_set_against_one():
    graph = compared(mixtures=())
    mixing = cost_of(graph, vector_add={"seconds": 130.0, "tokens": 2000.0}).mixing
    assert (mixing.each, mixing.count) == ({}, 1)
    assert mixing.all.total == mixing.all.projected == 330
    assert mixing.ratio == pytest.approx(330 / (330 + 20 + 5))
    assert "one mixture would take 5m 30s, projected, 0.93 times as much" in mixing.headline()


@pytest.mark.parametrize("tuned", [{}, {"scaled": ("mix", "twin")}])
def test_with_given_omega_no_search_is_charged_on_either_side(tuned):
    mixing = cost_of(compared(mixtures=("mix", "twin"), searched=False, **tuned)).mixing
    assert mixing.dem.choosing == mixing.all.choosing == 0
    assert (mixing.dem.total, mixing.all.total) == (305, (310 + 4 + 5) + (100 + 2 + 5))


def test_where_omega_are_searched_so_is_the_scale_of_a_mixture():
    mixing = cost_of(compared(scaled=("mix",))).mixing
    assert (mixing.dem.choosing, mixing.one.choosing, mixing.one.projected) == (20, 50, 0)


def test_several_mixtures_are_each_charged_with_a_pass_that_chooses_unless_something_else_did():
    graph = compared(mixtures=("mix", "twin", "third"), scaled=("twin",), validated=("third",))
    mixing = cost_of(graph).mixing
    assert {n: way.choosing for n, way in mixing.each.items()} == {"mix": 20 / 10, "twin": 20, "third": 0}
    assert mixing.all.projected == pytest.approx(2), (
        "a pass of the search is projected, all else was measured"
    )
    assert mixing.all.total == pytest.approx(sum(way.total for way in mixing.each.values()))


def test_one_mixture_has_no_others_to_be_chosen_from():
    assert cost_of().mixing.one.choosing == 0


def test_several_mixtures_count_each_with_what_it_took():
    graph = compared(NAMES[:2], mixtures=("mix", "twin", "third"), searched=False)
    mixing = cost_of(graph, vector_twin={"seconds": 400.0}, vector_third={"seconds": 550.0}).mixing
    assert mixing.all.training == pytest.approx(310 + 400 + 550)
    assert mixing.one.training == pytest.approx((310 + 400 + 550) / 3)
    assert (mixing.count, mixing.trained) == (3, 3)
    assert "the 3 mixtures took 21m 23s, 6.26 times as much" in mixing.headline()


def test_two_scales_of_one_training_are_one_mixture():
    graph = compared(mixtures=("mix", "twin"), scaled=("twin",))
    same = {
        f"{of}_twin": {"same_as": f"{of}:mix", "seconds": s} for of, s in (("vector", 310.0), ("data", 4.0))
    }
    mixing = cost_of(graph, tune_twin={"seconds": 50.0}, **same).mixing
    assert (mixing.count, mixing.trained) == (1, 1)
    assert mixing.all.total == pytest.approx(310 + 4 + 2 * 5 + 50)
    assert mixing.each["twin"].total == pytest.approx(310 + 4 + 5 + 50)
    results = Results(cost=BuildCost(costs_of(graph), mixing), baselines=dict.fromkeys(("mix", "twin")))
    names = [row.name for row in shown(results)[1].blocks[0].rows]
    assert names == ["DEM", "mix", "twin", "one mixture, what they share once"]


def test_a_mixture_that_is_named_and_did_not_run_counts_as_those_that_did():
    graph = compared(mixtures=("mix", "twin"), searched=False)
    costs = {n: c for n, c in costs_of(graph).items() if not n.endswith("twin")}
    mixing = build_cost(graph, costs).mixing
    assert (mixing.count, mixing.trained) == (2, 1)
    assert (mixing.all.total, mixing.all.projected) == (2 * 319, 319)
    assert "the 2 mixtures would take 10m 38s, 1 of them projected, 2.09 times as much" in mixing.headline()


def test_a_mixture_of_another_length_counts_as_it_ran_and_its_tokens_are_said():
    graph = compared(own=("mix",))
    mixing = cost_of(graph, vector_mix={"seconds": 500.0, "tokens": 1000.0}).mixing
    assert (mixing.each["mix"].training, mixing.each["mix"].tokens) == (500, 1000)
    assert "One mixture on 1k tokens, where the vectors read 3k: " in " ".join(mixing.sentences())


def test_a_mixture_that_read_more_than_the_vectors_is_not_said_to_have_read_as_much():
    read = [" ".join(cost_of(vector_mix={"tokens": tokens}).mixing.sentences()) for tokens in (3010, 3400)]
    assert "One mixture on as many tokens as the vectors, 3k: 5m 19s, measured (mix)." in read[0]
    assert "One mixture on 3.4k tokens, where the vectors read 3k: " in read[1]


def test_what_dem_cost_is_the_sum_of_its_parts():
    found = cost_of()
    assert by_device(found.costs, DEM) == {GPU: found.mixing.dem.total}


def test_ratio_and_break_even_follow_from_both_costs():
    mixing = cost_of().mixing
    assert mixing.ratio == pytest.approx(319 / 325)
    assert mixing.break_even == pytest.approx(325 / 319)


def won(model, table):
    """Results in which a model won, or was not told from the composed one."""
    losses = {"base": 3.0, "composed": 2.5, **table}
    found = {m: {f"loss:{n}": {"loss": v, "loss_stderr": 0.01} for n in NAMES} for m, v in losses.items()}
    results = Results(found, datasets=NAMES, baselines=dict.fromkeys(table, RecordedBaseline("mixing")))
    assert judge(results).winner == model
    return results


def shown(results):
    """What the terminal and the report's section say of the cost."""
    console = Console(file=io.StringIO(), width=300, markup=False, highlight=False)
    cost_line(results, console)
    graph = compared(mixtures=tuple(results.baselines))
    return console.file.getvalue(), cost(ReportInputs(None, graph, {}, results, (), ""))


def test_where_the_one_mixture_is_cheaper_and_won_no_headline_says_that_dem_saves():
    results = replace(won("mix", {"mix": 2.0}), cost=cost_of(vector_mix={"seconds": 200.0}))
    line, section = shown(results)
    assert "DEM 5m 25s, mix 3m 29s, 0.64 times as much" in line
    assert section.lead.startswith(
        "DEM took 5m 25s on NVIDIA H100; the mixture mix, which won, took 3m 29s, 0.64 times as much."
    )
    bars = {row.name: (row.value, row.more) for row in section.blocks[0].rows}
    assert bars == {"DEM": ("5m 25s", "measured"), "mix": ("3m 29s", "measured, 0.64 × DEM, which won")}
    table = {row[0].text: row[-1].text for row in section.blocks[1].rows}
    assert table == {name: value for name, (value, _) in bars.items()}
    assert "saves" not in line + section.lead


def test_where_one_of_several_mixtures_won_what_it_took_alone_is_said_beside_all():
    graph = compared(mixtures=("mix", "twin"))
    results = replace(won("mix", {"mix": 2.0, "twin": 2.5}), cost=build_cost(graph, costs_of(graph)))
    line, section = shown(results)
    assert "DEM 5m 25s, 2 mixtures 7m 10s, 1.32 times as much; mix, which won, 5m 21s, 0.99 times" in line
    assert "The mixture that won, mix, took 5m 21s, 0.99 times as much." in section.lead
    assert [row.name for row in section.blocks[0].rows] == ["DEM", "mix", "twin", "all 2 mixtures"]
    nobody = replace(won(None, {"mix": 2.5, "twin": 2.5}), cost=results.cost)
    assert "won" not in "".join((shown(nobody)[0], shown(nobody)[1].lead))


def test_one_dataset_costs_its_vector_and_all_that_follows_and_mixing_a_whole_mixture():
    edit = cost_of(vector_upper={"seconds": 40.0}).mixing.edits["upper"]
    assert (edit.own, edit.rest) == (42, 20 + 5)
    assert edit.mixture == 2 + 319
    assert edit.ratio == pytest.approx(321 / 67)


def test_a_new_mixture_is_made_once_and_compared_with_no_other():
    mixing = cost_of(compared(mixtures=("mix", "twin"))).mixing
    assert mixing.one.choosing == 2
    assert mixing.edits["upper"].mixture == 2 + mixing.one.total - 2


def test_a_dataset_more_does_not_take_vectors_from_elsewhere_in_again():
    graph = compared()
    actions = with_input(graph.actions, Action("vector:code", KINDS["extract"], {}), "delta")
    mixing = cost_of(dataclasses.replace(graph, actions=actions), vector_code={"seconds": 500.0}).mixing
    assert mixing.dem.making == 505
    assert mixing.edits["upper"].rest == 20 + 5


def test_a_training_that_two_datasets_share_read_its_tokens_once():
    mixing = cost_of(compared(mixtures=()), vector_upper={"same_as": "vector:add"}).mixing
    assert (mixing.dem.training, mixing.dem.tokens) == (200, 2000)
    assert mixing.one.training == 200


def test_tokens_that_were_not_counted_do_not_hide_the_seconds():
    mixing = cost_of(vector_copy={"tokens": None}).mixing
    assert mixing.all.total == 319
    assert "One mixture on tokens that were not counted: 5m 19s" in " ".join(mixing.sentences())


def test_composing_on_another_device_is_said_and_not_added():
    found = cost_of(model={"device": CPU}, model_mix={"device": CPU}, data_mix={"device": CPU})
    assert found.mixing.dem.making == found.mixing.one.making == 0
    assert f"Composing took 5.0s on {CPU}, which is not in the comparison." in found.notes
    assert "The build ran on several devices, whose seconds are not added up." in found.notes
    assert by_device(found.costs)[CPU] == 14


def test_a_mixture_on_another_device_is_projected_instead():
    found = cost_of(vector_mix={"device": CPU})
    assert (found.mixing.each, found.mixing.all.projected) == ({}, 300)
    assert f"vector:mix ran on {CPU}: its seconds are not compared." in found.notes


def test_a_search_of_a_scale_on_another_device_is_said():
    found = cost_of(compared(scaled=("mix",)), tune_mix={"device": CPU})
    assert found.mixing.one.choosing == 0
    assert f"tune:mix ran on {CPU}: its seconds are not compared." in found.notes


@pytest.mark.parametrize("name", ["vector_copy", "tune"])
def test_trainings_and_search_on_several_devices_are_not_compared(name):
    found = cost_of(**{name: {"device": CPU}})
    assert f"ran on several devices ({GPU}; {CPU})" in refusal(found)
    assert "The vectors read 3k tokens, mix 3.0k." in refusal(found)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"vector_copy": {"seconds": None}}, "how long vector:copy took is not recorded"),
        ({f"vector_{n}": {"seconds": 0.0} for n in NAMES}, "the trainings took no time"),
    ],
)
def test_what_is_not_known_is_not_compared(changed, why):
    assert why in refusal(cost_of(compared(mixtures=()), **changed))


def test_a_build_that_is_not_whole_is_not_compared():
    graph = compared()
    costs = {n: c for n, c in costs_of(graph).items() if n not in ("vector:copy", "model")}
    assert "vector:copy, model did not run yet" in refusal(build_cost(graph, costs))


def test_one_dataset_has_nothing_to_be_mixed_with():
    assert cost_of(compared(("add",), mixtures=())) == BuildCost(costs_of(compared(("add",), mixtures=())))


def test_what_a_vector_has_of_its_own_is_made_again_with_that_vector_alone():
    actions = compared().actions
    for name in NAMES:
        actions = with_input(actions, Action(f"gram:{name}", KINDS["gram"], {}), "gram")
    mixing = cost_of(dataclasses.replace(compared(), actions=actions)).mixing
    assert mixing.dem.making == 3 * 7 + 5
    assert mixing.edits["upper"].own == 2 + 100 + 7
    assert mixing.edits["upper"].rest == 20 + 5


def test_models_to_choose_from_and_what_tells_which_is_best_are_charged():
    graph = compared()
    actions = with_input(graph.actions, Action("model:match", KINDS["match"], {}), "weights")
    actions = with_input(actions, Action("choice:match:add", KINDS["loss"], {}), "rows")
    actions = with_input(actions, Action("tune:layers", KINDS["tune"], {}), "trace")
    mixing = cost_of(dataclasses.replace(graph, actions=actions)).mixing
    assert mixing.dem.choosing == 20 + 3 + 20
    assert mixing.dem.making == 5 + 5


def test_vectors_from_elsewhere_cost_what_nobody_knows():
    graph = compared()
    actions = dict(graph.actions) | {"vector:style": Action("vector:style", KINDS["extract"], {})}
    found = cost_of(dataclasses.replace(graph, actions=actions))
    assert found.mixing.dem.training == 300
    assert any("not counted: style. A mixture would need" in note for note in found.notes)


def test_a_search_that_began_with_what_others_measured_is_said_to_cost_more_from_nothing():
    costs = read({"vector:math": MINE | {"earlier_passes": 12}})
    assert costs["vector:math"].began_from_others
    begun = "A search began with passes of earlier searches"
    assert [n for n in cost_of(tune={"began_from_others": True}).notes if n.startswith(begun)]
    assert not [note for note in cost_of().notes if "earlier searches" in note]


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
    results = Results(cost=cost_of())
    text = summary("tiny", outcome_of(graph, records, {"vector:math": Done.RAN}), results)
    assert "this build: 12s on cpu" in text.replace("\\", "")
    assert "DEM took 5m 25s on NVIDIA H100; the mixture mix took 5m 19s, 0.98 times as much." in text
    assert "this build: nothing" in summary("tiny", outcome_of(graph, records), results)


def test_the_terminal_has_a_line_for_it_and_none_where_nothing_is_known():
    console = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    cost_line(Results(), console)
    assert console.file.getvalue() == ""
    cost_line(Results(cost=cost_of(compared(mixtures=()))), console)
    assert console.file.getvalue() == (
        "cost     5m 52s on NVIDIA H100: DEM 5m 25s, one mixture 5m 00s (projected), 0.92 times as much\n"
    )


def test_documents_hold_every_number():
    document = cost_of(compared(mixtures=("mix", "twin"))).document()
    mixing = document["mixing"]
    assert (mixing["mixtures"], mixing["mixtures_measured"], mixing["omega_searched"]) == (2, 2, True)
    assert mixing["all"]["total"] == mixing["mixtures"] * mixing["mixture"]["total"] == 321 + 109
    assert mixing["all"]["projected"] == 4
    assert mixing["ratio"] == pytest.approx(mixing["all"]["total"] / mixing["dem"]["total"])
    assert {name: way["total"] for name, way in mixing["each"].items()} == {"mix": 321, "twin": 109}
    assert set(mixing["datasets"]) == set(NAMES)
    assert document["devices"] == {GPU: sum(a["device_seconds"] for a in document["actions"].values())}
    assert document["actions"]["tune"]["tokens"] == 500
