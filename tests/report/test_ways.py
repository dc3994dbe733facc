"""What is told of how a model was composed: that its layers were matched, and which of three ways was chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from build_samples import Made
from page_samples import Page, make, make_choice, make_matching, make_recipe

from dem_build.action import MODEL_PARTS, Action, Edge, Input, key_of
from dem_build.actions import KINDS
from dem_build.actions.choose.read import read_choice
from dem_build.actions.choose.show import lines as choice_lines
from dem_build.actions.match import read as match_read
from dem_build.actions.match.read import MatchedVector, WeighedPass, WeighedSearch, read_match
from dem_build.actions.match.show import lines as match_lines
from dem_build.errors import StoreError
from dem_build.graph import Graph
from dem_build.plan import preimage_of
from dem_build.report.card import card
from dem_build.report.cost import Part, part_of
from dem_build.report.html.page import render
from dem_build.report.inputs import BuildRecords
from dem_build.store import Record

NAMES = ("math", "chat")
ROWS = {"math": "1" * 64, "chat": "2" * 64}
TERMS = [
    {"importance": 1.0, "rows": 32, "tokens": 1200, "residual": 0.03},
    {"importance": 2.0, "rows": 32, "tokens": 800, "residual": 0.05},
    {"importance": 1.0, "rows": 0, "tokens": 0, "residual": None},
]


def matched_graph():
    """A matched model of two datasets and a vector from elsewhere, with what made them."""
    makers = [Action("base", KINDS["import"], {"source": "directory", "dtype": None})]
    takes = [Input(f"base/{part}", Edge("base", part)) for part in MODEL_PARTS]
    groups = {}
    for place, name in enumerate((*NAMES, "code")):
        source = {"source": "checkpoint", "vector_dtype": "bfloat16"}
        makers.append(Action(f"vector:{name}", KINDS["extract"], source, salt=name))
        groups[name] = {"importance": TERMS[place]["importance"]}
        takes.append(Input("delta", Edge(f"vector:{name}", "delta"), group=name))
        if name != "code":
            params = {
                "format": "text",
                "max_length": 64,
                "on_overflow": "drop",
                "validation": 0.1,
                "test": 0.1,
            }
            makers.append(Action(f"data:{name}", KINDS["prepare"], params, salt=name))
            takes.append(Input("data/sample", Edge(f"data:{name}", "sample"), group=name))
    params = {"dtype": "bfloat16", "rows": 32, "ridge": 2.0, "prior": "fit"}
    model = Action("model", KINDS["match"], params, tuple(takes), groups=groups)
    return Graph({a.name: a for a in [*makers, model]})


def recorded(graph, provenance):
    """The records of a graph; the terms of the matched model are told by the digests of what it takes."""
    made = Made()
    records = made.build(graph)
    terms = [
        term
        | {
            "vector": records[f"vector:{name}"].outputs["delta"].digest,
            "sample": records[f"data:{name}"].outputs["sample"].digest if name != "code" else None,
        }
        for name, term in zip((*NAMES, "code"), TERMS, strict=True)
    ]
    old = records["model"]
    records["model"] = Record(
        old.key, old.kind, old.preimage, old.outputs, {"terms": terms[::-1], **provenance}
    )
    return BuildRecords(graph, records, made.read)


def test_what_matching_recorded_by_digests_is_read_with_names():
    found = read_match(recorded(matched_graph(), {"seconds": 21.5}))
    assert found.vectors == {
        "math": MatchedVector(1.0, 32, 1200, 0.03),
        "chat": MatchedVector(2.0, 32, 800, 0.05),
        "code": MatchedVector(1.0, 0, 0, None),
    }
    assert found.params == {"rows": 32, "ridge": 2.0, "prior": "fit"}
    assert (found.tokens, found.seconds, found.rowless) == (2000, 21.5, ["code"])


def weighed_graph():
    """The matched graph, whose importances are searched but for that of chat."""
    graph = matched_graph()
    old = graph.actions["model"]
    params = {**old.params, "objective": "gain", "max_samples": 8}
    groups = {n: {"importance": 2.0} if n == "chat" else {"importance": None} for n in old.groups}
    model = replace(old, kind=KINDS["weigh"], params=params, groups=groups)
    return Graph({**graph.actions, "model": model})


def weighed(**changed):
    """What a search for importances recorded; its vectors come in another order than the recipe's."""
    build = recorded(weighed_graph(), {})
    terms = build.records["model"].provenance["terms"]
    found = {
        "objective": "gain",
        "vectors": [{name: term[name] for name in ("vector", "sample")} for term in terms],
        "kept": 1,
        "passes": [
            {"importances": [1.0, 2.0, 1.0], "score": -0.8, "lead": 0.1, "stderr": 0.02},
            {"importances": [1.0, 2.0, 4.0], "score": -0.9, "lead": 0.0, "stderr": 0.0},
        ],
    }
    return recorded(weighed_graph(), {"search": found | changed})


def test_importances_that_were_searched_are_read_with_all_that_was_tried():
    found = read_match(weighed())
    assert [one.importances for one in found.search.passes] == [
        {"math": 1.0, "chat": 2.0, "code": 1.0},
        {"math": 4.0, "chat": 2.0, "code": 1.0},
    ]
    assert found.vectors["chat"].importance == 2.0
    text = Page(render(make(NAMES, matching=found))).text
    assert "1 1 2 1 0.800 0.100 ±0.020 2 4 2 1 0.900 kept" in text
    _, *said = match_lines(found)
    assert ("importances math 4, chat 2, code 1: the best of 2 matchings on validation rows",) in said


def test_twins_have_each_the_importance_that_it_was_tried_with():
    """Two names of one vector and one sample: of the one the importance was given, of the other searched."""
    place = ("v", "s")
    said = {
        "objective": "gain",
        "vectors": [{"vector": "v", "sample": "s"}] * 2,
        "kept": 1,
        "passes": [
            {"importances": [1.0, 3.0], "score": -0.8, "lead": 0.1, "stderr": 0.02},
            {"importances": [2.0, 3.0], "score": -0.9, "lead": 0.0, "stderr": 0.0},
        ],
    }
    found = match_read._search(said, {"given": place, "free": place}, {"given": 3.0, "free": None})
    assert [one.importances for one in found.passes] == [
        {"given": 3.0, "free": 1.0},
        {"given": 3.0, "free": 2.0},
    ]


@pytest.mark.parametrize("changed", [{"kept": 7}, {"passes": []}, {"vectors": []}, {"passes": [{}]}])
def test_a_search_for_importances_of_another_shape_is_told(changed):
    with pytest.raises(StoreError, match="recorded matching cannot be read"):
        read_match(weighed(**changed))


@pytest.mark.parametrize("terms", [None, [], [{"vector": 1}], "no list"])
def test_a_record_of_another_shape_is_told(terms):
    with pytest.raises(StoreError, match="recorded matching cannot be read"):
        read_match(recorded(matched_graph(), {"terms": terms}))


def test_the_page_says_how_layers_were_matched():
    vectors = make_matching(NAMES).vectors | {"code": MatchedVector(1.0, 0, 0, None)}
    inputs = make(NAMES, matching=make_matching(NAMES, vectors=vectors))
    text = Page(render(inputs)).text
    assert (
        "on 2.4k tokens of training rows, in 22s; with a ridge of 2.0 towards the base plus the mean of the "
        "vectors, made as long as rows say." in text
    )
    assert "math 1 32 1.2k 3.1 % chat 2 32 1.2k 3.1 % code 1 none only the prior has it" in text


def test_a_terminal_says_it_in_a_line():
    vectors = make_matching(NAMES).vectors | {"code": MatchedVector(1.0, 0, 0, None)}
    _, *said = match_lines(make_matching(NAMES, vectors=vectors))
    distances = "distance from each vector's own model: math 3.1 %, chat 3.1 %"
    assert said == [
        (f"matched on 2.4k tokens of training rows in 22s; {distances}",),
        ("without rows, and only in the prior: code",),
    ]


def test_the_time_of_a_search_for_importances_is_not_said_of_one_matching():
    passes = tuple(WeighedPass({"math": 1.0, "chat": a}, -0.5, 0.1, 0.01) for a in (1.0, 2.0))
    found = make_matching(NAMES, search=WeighedSearch("gain", passes, 1))
    _, matched, searched = match_lines(found)
    assert "in 22s" not in matched[0]
    assert searched == ("importances math 1, chat 2: the best of 2 matchings on validation rows, in 22s",)


def test_importances_are_told_once_and_never_as_weights_of_a_sum():
    matched = Page(render(make(NAMES, recipe=recipe_of("match"), matching=make_matching(NAMES)))).text
    assert "Layers matched" in matched
    assert "Weights ω" not in matched
    regmean = Page(render(make(NAMES, recipe=recipe_of("regmean")))).text
    assert "What ω is: the dataset's importance a." in regmean
    assert "given, or 1 where the recipe says none" in regmean
    summed = Page(render(make(NAMES))).text
    assert "What ω is: the vector's weight in the sum." in summed
    assert "given in the recipe" in summed


def the_card(inputs):
    return card(inputs.recipe, inputs.graph, inputs.records, inputs.results, {"dem-build": "0.1.0"})


def recipe_of(method):
    recipe = make_recipe(NAMES)
    return recipe.model_copy(update={"compose": recipe.compose.model_copy(update={"method": method})})


def test_the_card_says_how_a_matched_model_was_composed():
    text = the_card(make(NAMES, recipe=recipe_of("match"), matching=make_matching(NAMES)))
    assert "`rows` is 32, `ridge` is 2.0, `prior` is fit" in text
    assert "ω of a vector is the dataset's importance a" in text
    assert "minimises" in text
    plain = the_card(make(NAMES))
    assert "`rows`" not in plain
    assert "the best of" not in plain


@pytest.mark.parametrize(
    ("chosen", "formula"), [("match", "minimises"), ("sum", "Θ_D = Θ + Σ"), ("layers", "Θ_D = Θ + Σ")]
)
def test_the_card_of_a_choice_is_that_of_what_was_chosen(chosen, formula):
    text = the_card(make(NAMES, recipe=recipe_of("auto"), choice=make_choice(NAMES, chosen=chosen)))
    assert formula in text
    assert "the best of 3 ways on validation rows" in text
    assert ("`rows` is 32" in text) == (chosen == "match")


def test_the_page_puts_the_models_of_a_choice_side_by_side():
    text = Page(render(make(NAMES, choice=make_choice(NAMES)))).text
    assert (
        "match is kept: its mean gain recovered is better than that of layers by 0.110 "
        "(95 % interval +0.070 to +0.150)." in text
    )
    assert "sum Θ + Σ ωᵢ ΔΘᵢ 0.750 0.200 95 % interval +0.160 to +0.240 0.750 0.750" in text
    assert "match kept 0.950 \N{EN DASH} 0.950 0.950" in text
    assert "on the same 96 validation rows" in text


def test_a_lead_that_may_be_noise_is_called_that():
    near = make_choice(NAMES)
    layers = replace(near.candidates["layers"], low=-0.01)
    [_, line] = choice_lines(make_choice(NAMES, candidates={**near.candidates, "layers": layers}))
    assert line[0].endswith("by 0.110 (95 % interval -0.010 to +0.150), which is no clear lead.")
    unknown = replace(layers, low=None, high=None)
    [_, line] = choice_lines(make_choice(NAMES, candidates={**near.candidates, "layers": unknown}))
    assert line[0].endswith("by 0.110, which is no clear lead.")


def test_what_was_made_to_choose_from_is_part_of_what_the_model_cost():
    graph = Graph({}, candidates=("sum", "layers", "match"))
    names = ("tune", "tune:layers", "model:sum", "model:match", "choice:sum:math", "model")
    assert {part_of(Action(n, KINDS["compose"], {}), graph) for n in names} == {Part.MODEL}
    assert part_of(Action("model:math", KINDS["compose"], {}), graph) is Part.REFERENCES


def chosen_build(**changed):
    """A build whose model is chosen of three, on the rows of two datasets."""
    actions = [Action("base", KINDS["import"], {"source": "directory", "dtype": None})]
    takes, groups = [], {}
    for name in NAMES:
        actions.append(
            Action(f"vector:{name}", KINDS["extract"], {"source": name, "vector_dtype": "bfloat16"})
        )
        params = {"format": "text", "max_length": 64, "on_overflow": "drop", "validation": 0.1, "test": 0.1}
        actions.append(Action(f"data:{name}", KINDS["prepare"], params, salt=name))
        takes.append(Input("delta", Edge(f"vector:{name}", "delta"), group=name))
        takes.append(Input("data/validation", Edge(f"data:{name}", "validation"), group=name))
        groups[name] = {"importance": 1.0}
    model = Action("model", KINDS["choose"], {"objective": "gain"}, tuple(takes), groups=groups)
    graph = Graph({a.name: a for a in [*actions, model]}, candidates=("sum", "layers", "match"))
    made = Made()
    records = made.build(graph)
    judges = [
        {
            "rows": records[f"data:{n}"].outputs["validation"].digest,
            "vector": records[f"vector:{n}"].outputs["delta"].digest,
            "used": 40 + i,
        }
        for i, n in enumerate(NAMES)
    ]
    found = {
        "score": -0.5,
        "lead": 0.1,
        "low": 0.0,
        "high": 0.2,
        "keeps_limits": True,
        "losses": [1.0, 2.0],
        "gains": [0.4, 0.6],
    }
    told = {"chosen": "match", "objective": "gain", "judges": judges}
    told["candidates"] = [
        {"name": n, **found, "score": s} for n, s in (("sum", -0.5), ("layers", -0.6), ("match", -0.7))
    ]
    old = records["model"]
    records["model"] = replace(old, provenance=told | changed)
    assert key_of(preimage_of(model, {n: r.outputs for n, r in records.items()})) == old.key
    return BuildRecords(graph, records, made.read)


def test_what_a_choice_recorded_by_digests_is_read_with_names():
    found = read_choice(chosen_build())
    assert found.chosen == "match"
    assert found.rows == {"math": 40, "chat": 41}
    assert found.candidates["sum"].gains == {"math": 0.4, "chat": 0.6}
    assert found.second[0] == "layers"


@pytest.mark.parametrize("changed", [{"chosen": "nobody"}, {"candidates": None}, {"judges": [{}]}])
def test_a_choice_of_another_shape_is_told(changed):
    with pytest.raises(StoreError, match="recorded choice of a model cannot be read"):
        read_choice(chosen_build(**changed))
