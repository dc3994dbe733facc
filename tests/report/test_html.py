"""The report: one file that loads nothing, whole with much, little or nothing in it, and safe with any text."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
from build_samples import Made, make_graph
from page_samples import (
    Page,
    curve,
    everything,
    make,
    make_ladder,
    make_recipe,
    make_response,
    make_samples,
    make_tuning,
    with_singles,
)

from dem_build.actions.response.read import Loss, Point
from dem_build.actions.sample.read import Exchange, SampledAnswer, spread
from dem_build.actions.tune.read import Judged
from dem_build.report.baselines import RecordedBaseline
from dem_build.report.gates import GateResult
from dem_build.report.html.blocks import Axis, Scatter, level, rival
from dem_build.report.html.evaluations import losses, tasks
from dem_build.report.html.page import SECTIONS, TEMPLATES, render
from dem_build.report.inputs import ReportInputs, is_drawn, mark_of
from dem_build.report.results import Results, collect

HOSTILE = "\"><script>alert('1')</script><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\u202e</style>"
# In HTML these may stand without an end; the page writes all of them with a slash.
DRAWN = {"line", "circle", "path", "polyline", "polygon", "rect"}


def anchors(inputs):
    return [s.anchor for make_section in SECTIONS if (s := make_section(inputs)) is not None]


def test_a_build_with_everything_shows_every_section():
    page = Page(render(everything(("math", "chat"))))
    assert len(page.ids) == len(set(page.ids)) == len(SECTIONS)
    assert page.links == [f"#{i}" for i in page.ids]


def with_baselines(count):
    """A build of two datasets and a task whose baselines all have the same losses."""
    names, methods = ("math", "chat"), itertools.cycle(("mixing", "interpolation", "uniform", "single"))
    baselines = {
        f"rival{i}": RecordedBaseline(method) for i, method in zip(range(count), methods, strict=False)
    }
    models = {"base": 3.0, "composed": 2.0, **dict.fromkeys(baselines, 1.9)}
    table = {
        m: {f"loss:{n}": {"loss": v, "loss_stderr": 0.01} for n in names} | {"arc_easy": {"acc": 0.5}}
        for m, v in models.items()
    }
    return make(names, table=table, baselines=baselines)


@pytest.mark.parametrize("section", [losses, tasks])
def test_every_baseline_has_a_mark_and_a_lane_of_its_own_and_is_named_beside_it(section):
    inputs = with_baselines(12)
    chart = section(inputs).blocks[0]
    names = {kind: name for kind, name in chart.legend if name in inputs.results.baselines}
    assert list(names.values()) == list(inputs.results.baselines)
    for row in chart.rows:
        rivals = {mark.lane: names[mark.kind] for mark in row.marks if mark.kind in names}
        assert list(rivals.values()) == list(names.values()), "each in a lane, in the order of the legend"
        assert {s.lane for s in row.spans if s.kind.startswith("whisker rival")} == set(rivals)
        assert row.height > max(mark.down for mark in row.marks)
    assert "a baseline" not in render(inputs)


def test_marks_of_baselines_differ_in_shape_and_not_in_colour_alone():
    marks = [rival(i) for i in range(30)]
    assert len(set(marks)) == 30
    shapes = [mark.split()[1] for mark in marks]
    assert all(len(set(shapes[i : i + 5])) == 5 for i in range(25))
    style, page = (TEMPLATES / "style.css").read_text(), render(with_baselines(5))
    for mark in marks:
        assert f".{mark.split()[2]} {{ stroke:" in style
    for i in range(5):
        assert re.search(rf'<path class="{rival(i)}" d="M[^"]+"/>', page)


def test_what_a_change_of_a_task_is_worth_stands_in_the_column_of_the_change():
    inputs = with_baselines(1)
    for model in ("base", "composed"):
        inputs.results.table[model]["gsm8k"] = {"exact_match": 0.5, "exact_match_stderr": 0.01}
    section = tasks(inputs)
    assert "Wilson" not in section.lead
    changes = section.blocks[0]
    assert changes.fits
    assert [len(row) for row in changes.rows] == [2, 2], "nothing lies to the right of a narrow page"
    assert ("arc_easy", "acc", "error unknown") in [(r[0].text, r[0].more, r[1].more) for r in changes.rows]


def test_baselines_stand_with_their_tokens_and_the_interval_of_their_scale():
    text = Page(render(everything(("math", "chat")))).text
    assert (
        "mixing mixing math 50% (1.5 epochs), chat 50% (1.5 epochs) mixing 0.8 (0.70 to 0.90) 12k 12k" in text
    )
    assert "even uniform vectors math 0.5, chat 0.5" in text
    assert "mixing: its <b>scale</b>" in text


def test_sections_appear_only_where_there_is_data():
    assert anchors(make()) == ["loss", "tasks", "omega", "provenance"]
    assert anchors(make(table={}, omega={})) == ["provenance"]


def test_the_page_loads_nothing_and_runs_nothing():
    text = render(everything())
    page = Page(text)
    assert page.loads == []
    assert "script" not in page.tags
    assert not re.search(r"https?:|url\(|@import|@font-face|javascript:", text)


def test_before_a_build_the_page_says_what_is_missing():
    graph = make_graph()
    text = Page(render(ReportInputs(make_recipe(), graph, {}, Results(), (), "0.1.0"))).text
    assert "Not judged" in text
    assert f"{len(graph.actions)} of {len(graph.actions)} actions are not recorded" in text


def test_what_failed_is_named_and_the_rest_is_shown():
    graph, made = make_graph(("math", "chat")), Made()
    records = {
        n: r
        for n, r in made.build(graph).items()
        if n not in ("vector:chat", "model") and "composed" not in n
    }
    inputs = ReportInputs(make_recipe(), graph, records, collect(graph, records, made.read), (), "0.1.0")
    text = Page(render(inputs)).text
    assert "(vector:chat, model, " in text
    assert "not built yet" in text
    assert "2.500 ±0.020" in text


def test_text_from_outside_is_shown_and_never_markup():
    names = ("math",)
    table = {
        m: {HOSTILE: {HOSTILE: 0.5}, "loss:math": {"loss": 2.0, "loss_stderr": 0.1}}
        for m in ("base", "composed")
    }
    told = {"vector:math": {"warnings": [HOSTILE], "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}}
    inputs = make(
        names,
        made=Made(provenance=told),
        recipe=make_recipe(model="./" + HOSTILE.replace("/", "")),
        gates=(GateResult(HOSTILE, HOSTILE, math.nan, passed=False, why=HOSTILE),),
        table=table,
        tuning=make_tuning(names, told=(HOSTILE,)),
        tsne={HOSTILE: ((0.0, 1.0),)},
        samples=(
            Exchange(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: SampledAnswer(HOSTILE, ended=False)}),
            Exchange("", HOSTILE, None, {"composed": SampledAnswer(HOSTILE, ended=True)}),
        ),
    )
    text = render(inputs)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert "{{ 7*7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)


def test_words_of_data_and_models_keep_their_lines_and_hyphens():
    asked = "a -1\r\n\tb\n\n  c"
    text = render(make(samples=make_samples(("math",), asked=asked)))
    assert '<p class="question" dir="auto">a -1\n    b\n\n  c</p>' in text


def test_an_answer_that_was_cut_off_and_one_as_in_the_data_are_marked():
    text = render(make(samples=make_samples(("math",))))
    base, composed = re.findall(r'<div class="reply (?:base|composed)">.*?</div>', text, re.DOTALL)
    assert ("dunno<span" in base, "✓" in base) == (True, False)
    assert ('<span class="cut"' in composed, "✓" in composed) == (False, True)


def test_ten_prompts_are_shown_at_once_and_all_others_when_asked_for():
    found = make_samples(("math", "chat", "code"), 5)
    shown = [e.dataset for e in spread(found)]
    assert [shown.count(n) for n in ("math", "chat", "code")] == [4, 3, 3]
    text = render(make(samples=found))
    assert text.count('<p class="question"') == 15
    assert "5 more" in Page(text).text


def test_twenty_vectors_and_as_many_models_are_all_there():
    names = tuple(f"skill{i:02}" for i in range(20))
    page = Page(render(everything(names)))
    assert all(f"{n} alone" in page.text for n in names)
    searched, trained, answered, grown = 2, 2 * len(names), len(names) ** 2, 2
    assert page.tags.count("polyline") == searched + trained + answered + grown


def test_values_that_are_no_numbers_are_shown_as_such():
    table = {
        m: {"loss:math": {"loss": v, "loss_stderr": math.nan}}
        for m, v in (("base", 3.0), ("composed", math.nan))
    }
    text = render(make(table=table))
    assert "nan" in Page(text).text
    assert "nan%" not in text


def test_the_verdict_and_its_numbers_come_first():
    text = Page(render(everything(("math", "chat")))).text
    assert "A mixture won: mixing." in text
    assert text.index("A mixture won: mixing.") < text.index("Against the base") < text.index("Every model")
    assert "math \N{MINUS SIGN}1.000 ±0.014" in text, "numbers have a minus, not a hyphen"


def test_costs_are_those_of_the_run_that_made_the_results():
    text = Page(render(everything(("math", "chat")))).text
    assert "All that is recorded here took 1m 42s on cpu: each result once" in text
    assert (
        "Recorded before device-seconds were, and counted with their wall time: data:math, data:chat." in text
    )


def test_mixing_stands_beside_dem_and_what_was_not_measured_says_so():
    text = Page(render(everything(("math", "chat")))).text
    assert "DEM took 1m 40s on cpu; one mixture would take 1m 40s, projected, 1.00 times as much." in text
    assert "DEM 1m 40s measured one mixture 1m 40s projected, 1.00 × DEM" in text
    assert "DEM: vectors, search of ω, composing 1m 40s" in text
    assert "math 51s 0.0s 51s 1m 41s 1.98 × DEM" in text
    assert "ω are given: no search is counted on either side." in text


def test_devices_have_columns_of_their_own():
    told = {"vector:math": {"device_seconds": 5.0, "device": "H100"}, "model": {"device_seconds": 2.0}}
    text = Page(render(make(made=Made(provenance=told)))).text
    assert "H100 cpu DEM: vectors, search of ω, composing 5.0s 2.0s" in text
    assert "All that is recorded here took 5.0s on H100 and 2.0s on cpu: each" in text


def test_who_hurts_whom_needs_no_tuning():
    assert "slopes" in anchors(make(response=make_response(("math",))))


def test_who_hurts_whom_is_told_of_the_model_itself():
    names = ("math",)
    text = Page(render(make(names, tuning=make_tuning(names), response=make_response(names)))).text
    assert "more math math \N{MINUS SIGN}0.500" in text


def test_a_candidate_that_broke_a_limit_is_not_the_best_of_a_search():
    found = make_tuning(
        ("math",), scores=(-0.1, -0.9, -0.3, -0.6, -0.5), allowed=(True, False, True, False, True)
    )
    assert "mean gain recovered best 0.500" in Page(render(make(tuning=found))).text


def test_one_candidate_that_is_far_worse_does_not_flatten_the_trace_of_all_others():
    scores = (-0.5, 30.0, -0.6, -0.65, -0.7)
    text = Page(render(make(tuning=make_tuning(("math",), scores=scores, uniform=-0.5)))).text
    assert "0.700 0.300 or less" in text
    settled = make_tuning(("math",), scores=(0.0, -0.6, -0.7, -0.7, -0.7), uniform=0.0)
    assert "0.700 0.000" in Page(render(make(tuning=settled))).text
    alike = make_tuning(("math",), scores=(-0.7, 0.0, -0.7001, -0.7001, -0.7001), uniform=None)
    assert "0.700 0.665 or less" in Page(render(make(tuning=alike))).text
    losses = [-score for score in (-3.0, -50.0, -2.5, -2.4, -2.3)]
    found = make_tuning(("math",), scores=losses, objective="mean", uniform=2.5)
    assert "3.100 or more 2.300" in Page(render(make(tuning=found))).text


def test_models_stand_below_each_other_where_they_are_more_than_the_datasets():
    def cells(*models):
        table = {m: {"loss:math": {"loss": 2.0, "loss_stderr": 0.1}} for m in models}
        return Page(render(make(table=table, baselines={"even": RecordedBaseline("mixing")}))).text

    assert "Every model model math base 2.000 ±0.100 composed 2.000 ±0.100 even 2.000" in cells(
        "math", "even", "composed", "base"
    ), "the recipe's baselines, then its vectors"
    assert "Every model on base math 2.000" in cells("base")


def test_a_training_says_the_loss_of_the_weights_that_it_kept():
    looks = [[10, 2.0], [30, 1.5]]  # thinned
    kept, last = (
        Page(render(make(made=Made(provenance={"vector:math": {
            "curve": curve(),
            "validation": {"curve": looks, "kept_step": step, "lowest": {"step": 20, "loss": 1.0}},
        }}))))
        for step in (20, 30)
    )  # fmt: skip
    assert "validation 1.000" in kept.text
    assert "at the dashed line" in kept.text
    assert "validation 1.500" in last.text
    assert "at the dashed line" not in last.text


LAYERED = {"granularity": "layer", "layered": True}


def test_what_a_search_of_layers_shows_is_said_to_be_of_one_omega_a_vector():
    told = "candidates of one ω a vector and then some of one ω a layer, at the cost of 12.5 forward passes"
    names = ("math",)
    plain, layered = (
        Page(render(make(names, tuning=make_tuning(names, **one)))).text for one in ({}, LAYERED)
    )
    assert told in layered
    assert "would do to each dataset at the best of one ω a vector" in layered
    assert told not in plain
    assert "would do to each dataset at the chosen ω" in plain
    retuned = "searched anew at each step, on validation rows, one a vector until the whole model has those"
    inputs = make(names, tuning=make_tuning(names), ladder=make_ladder(names))
    assert retuned in Page(render(inputs)).text
    assert retuned not in Page(render(make(names, ladder=make_ladder(names)))).text


def test_a_mean_gain_is_without_datasets_whose_own_vector_gains_next_to_nothing():
    names = ("math", "chat")
    table = with_singles(names)
    table["chat"]["loss:chat"] = {"loss": 2.9999, "loss_stderr": 1e-7}
    table["base"]["loss:chat"]["loss_stderr"] = 1e-7
    text = Page(render(make(names, table=table, ladder=make_ladder(names, floored=("chat",))))).text
    assert "composed 0.667 ±" in text, "math's alone"
    assert "Alone, the vector of chat gains less than two standard errors or a thousandth of" in text
    assert "Own vectors that gain next to nothing alone: chat; the mean is without them." in text
    assert "gains next to nothing" not in Page(render(make(names, ladder=make_ladder(names)))).text


def test_the_page_says_how_far_rounding_moved_the_model():
    def text(provenance):
        return Page(render(make(made=Made(provenance={"model": provenance})))).text

    assert "weights bfloat16, rounded by 0.0041 of what the vectors change" in text(
        {"relative_rounding_error": 0.00406}
    )
    assert all("rounded by" not in text({"relative_rounding_error": none}) for none in (None, 0.0, "much"))


def test_a_gain_on_validation_rows_that_is_of_a_floor_is_said_to_say_little():
    judges = {"math": Judged(3.0, 2.0, 1.5, 2 / 3, 32), "chat": Judged(4.0, 3.9, 3.9999, 25.0, 32)}
    tuning = make_tuning(("math", "chat"), judges=judges)
    text = Page(render(make(("math", "chat"), tuning=tuning))).text
    assert "Alone, the vector of chat gains next to nothing: the gain there says little." in text
    assert (
        "On the validation rows that ω was chosen on, it recovers 0.67 of what each dataset's own vector gains alone; "
        "chat left out, whose own vector gains too little to tell."
    ) in text


def test_probes_that_a_search_read_are_not_said_to_be_unseen():
    names, table = ("math",), {m: {"loss:talk": {"loss": 2.0}} for m in ("base", "composed")}
    searched = Page(render(make(names, table=table, probes=("talk",), tuning=make_tuning(names)))).text
    assert "never trained on; the search for ω reads these rows too" in searched
    assert "forward passes over them and the probes. No test row of a dataset was read." in searched
    given = Page(render(make(names, table=table, probes=("talk",)))).text
    assert "Probes: judged, never trained on" in given
    assert "reads these rows" not in given


def test_keys_and_digests_are_whole():
    inputs = everything()
    text = Page(render(inputs)).text
    for record in inputs.records.values():
        assert record.key in text
        assert all(output.digest in text for output in record.outputs.values())


def test_where_files_and_hosts_are_is_nobody_elses_business():
    inputs = make(
        made=Made(provenance={"base": {"host": "my-host"}}), recipe=make_recipe(model="/home/me/base")
    )
    text = render(inputs)
    assert "my-host" not in text
    assert "/home/me" not in text


def test_the_same_material_gives_the_same_page_which_is_known_by_its_end(tmp_path):
    text, path = render(everything()), tmp_path / "report.html"
    assert render(everything()) == text
    assert not is_drawn(path, mark_of(everything()))
    path.write_text(text)
    assert is_drawn(path, mark_of(everything()))
    path.write_text(text[:-9])
    assert not is_drawn(path, mark_of(everything()))


@pytest.mark.parametrize(
    "changed",
    [
        lambda: make(("math", "chat")),
        lambda: make(recipe=make_recipe(name="other")),
        lambda: make(gates=(GateResult("loss:math", "loss", 2.0, passed=True, why="at most 3"),)),
        lambda: make(made=Made(provenance={"model": {"finished": "2026-01-02T03:04:05Z"}})),
        lambda: make(graph=make_graph(rate=1e-3)),
    ],
)
def test_another_material_has_another_mark(changed):
    assert mark_of(changed()) != mark_of(make())


def test_a_response_has_a_band_that_closes_where_the_model_is():
    text = render(make(response=make_response(("math", "chat"))))
    bands = re.findall('<polygon class="(\\w+)" points="([^"]+)"', text)
    assert [kind for kind, _ in bands] == ["faint", "strong"] * 2
    places = [tuple(map(float, pair.split(","))) for pair in bands[0][1].split()]
    upper, lower = places[: len(places) // 2], places[len(places) // 2 :][::-1]
    assert [x for x, _ in upper] == [x for x, _ in lower] == [0.0, 50.0, 100.0]
    assert [round(low - high, 1) > 0 for (_, high), (_, low) in zip(upper, lower, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_response_without_errors_has_no_band():
    found = make_response(("math",))
    bare = {
        n: tuple(
            Point(p.omega, {j: Loss(v.loss, None, v.change, None) for j, v in p.losses.items()})
            for p in points
        )
        for n, points in found.curves.items()
    }
    text = render(make(response=replace(found, curves=bare)))
    assert "polygon" not in Page(text).tags
    assert "95 % interval of the change" not in text


def test_a_map_keeps_the_shape_of_what_it_shows_and_lies_on_its_side():
    places = {"a": [(0.0, 0.0), (10.0, 5.0)], "b": [(5.0, -15.0)]}
    drawn = Scatter.of(places, "a map")
    found, given = (
        [p for points in some for p in points] for some in ([c.points for c in drawn.clouds], places.values())
    )
    pairs = [(0, 1), (0, 2), (1, 2)]
    scales = [math.dist(found[i], found[j]) / math.dist(given[i], given[j]) for i, j in pairs]
    assert scales == pytest.approx([scales[0]] * 3, rel=1e-3)
    assert all(0 < x < 100 and 0 < y < drawn.height for x, y in found)
    assert drawn.height < 62
    assert max(x for x, _ in found) - min(x for x, _ in found) > max(y for _, y in found) - min(
        y for _, y in found
    )


def test_a_map_of_one_place_is_a_point_in_the_middle():
    [cloud] = Scatter.of({"a": [(3.0, 4.0)] * 3}, "a map").clouds
    assert set(cloud.points) == {(50.0, 18.0)}


def test_no_two_of_many_datasets_look_the_same_on_a_map():
    names = [f"skill{i}" for i in range(28)]
    drawn = Scatter.of({n: [(0.0, 0.0)] for n in names}, "a map")
    assert len({cloud.kind for cloud in drawn.clouds}) == len(names)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (1.2, 6.1, [2, 4, 6]), (-0.3, 0.2, [-0.2, 0, 0.2]), (2, 2, [])],
)
def test_ticks_are_round_and_on_the_axis(low, high, ticks):
    found = Axis(low, high).ticks()
    assert found == (ticks or found)
    assert len(found) <= 5


def test_an_axis_holds_finite_values_and_a_level_their_sign():
    axis = Axis.over([1.0, math.nan, 3.0, math.inf], pad=0.0)
    assert (axis.at(1.0), axis.at(2.0), axis.at(9.0)) == (0.0, 50.0, 100.0)
    assert [level(v, 2.0) for v in (2.0, -2.0, 9.0, 0.0, math.nan)] == [5, -5, 5, 0, 0]
