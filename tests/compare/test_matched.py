"""Which actions of two sides are the same work, and why others are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from build_samples import Made, make_graph
from compare_samples import Recorded, side
from hypothesis import given, settings
from hypothesis import strategies as st

from dem_build.action import Edge, Input
from dem_build.actions import KINDS
from dem_build.compare import Side, Standing, compare
from dem_build.graph import Graph

TWO = ("math", "chat")
EVALUATIONS = {"loss:composed:math", "loss:composed:chat", "eval:composed:arc_easy"}


def standings(comparison):
    return {change.name: change.standing for change in comparison.keys.changes}


def changed(comparison):
    return {n for n, standing in standings(comparison).items() if standing is not Standing.SAME}


def told(comparison):
    """Each reason: its causes in words, what they are said of, and what follows."""
    return [([c.text for c in r.causes], {*r.changed}, {*r.follow}) for r in comparison.reasons]


def named(*names, **more):
    """A graph whose datasets differ by their place, and not by their names."""
    graph = make_graph(names, **more)
    actions = dict(graph.actions)
    for place, name in enumerate(names):
        data = actions[f"data:{name}"]
        actions[data.name] = replace(data, params=data.params | {"system": str(place)})
    return replace(graph, actions=actions)


def with_action(graph, name, **changes):
    return replace(graph, actions=dict(graph.actions) | {name: replace(graph.actions[name], **changes)})


@pytest.mark.parametrize("only", [None, [], ["base"], ["base", "data:math", "data:chat"]])
def test_a_side_is_the_same_as_itself_however_much_of_it_is_built(only):
    comparison = compare(side(make_graph(TWO), only=only), side(make_graph(TWO), only=only))
    assert comparison.same
    assert not comparison.reasons
    assert changed(comparison) == set()


def test_another_order_changes_nothing():
    graph = make_graph(TWO)
    assert compare(side(named("a", "b")), side(named("a", "b"))).same
    turned = Graph(dict(graph.actions), graph.models, dict(reversed(graph.omega.items())))
    comparison = compare(side(graph), side(turned))
    assert comparison.same
    assert changed(comparison) == set()


@pytest.mark.parametrize("only", [None, [], ["base"]])
def test_a_dataset_of_another_name_is_renamed_with_all_that_is_named_after_it(only):
    comparison = compare(side(named("math", "chat"), only=only), side(named("math", "talk"), only=only))
    assert comparison.keys.names.renamed == {"chat": "talk"}
    assert changed(comparison) == {"data:talk", "vector:talk", "loss:composed:talk", "loss:base:talk"}
    assert {standings(comparison)[name] for name in changed(comparison)} == {Standing.RENAMED}
    assert comparison.same
    assert not comparison.reasons


def test_two_datasets_that_change_names_are_both_renamed():
    comparison = compare(side(named("math", "chat")), side(named("chat", "math")))
    assert comparison.keys.names.renamed == {"chat": "math", "math": "chat"}
    assert comparison.same


def test_what_else_changes_of_a_renamed_dataset_is_told_under_its_new_name():
    comparison = compare(side(named("math", "chat")), side(named("math", "talk", rate=1e-5)))
    assert standings(comparison)["data:talk"] is Standing.RENAMED
    assert standings(comparison)["vector:talk"] is Standing.CHANGED
    assert told(comparison) == [
        (
            ["learning_rate: 2e-05 → 1e-05"],
            {"vector:math", "vector:talk"},
            {"model", "loss:composed:math", "loss:composed:talk", "eval:composed:arc_easy"},
        )
    ]
    renamed = next(m for m in comparison.metrics if (m.model, m.task) == ("composed", "loss:talk"))
    assert renamed.before is not None
    assert renamed.after is not None


def test_a_name_that_went_to_another_dataset_is_not_what_it_was():
    """`chat` is called `talk` now, and another dataset is called `chat`."""
    graph = named("math", "talk", "chat")
    comparison = compare(side(named("math", "talk")), side(replace(graph)))
    assert standings(comparison)["data:talk"] is Standing.SAME
    assert standings(comparison)["data:chat"] is Standing.NEW


def test_a_parameter_is_one_cause_whatever_it_is_said_of():
    comparison = compare(side(make_graph(TWO)), side(make_graph(TWO, rate=1e-5)))
    assert told(comparison) == [
        (["learning_rate: 2e-05 → 1e-05"], {"vector:math", "vector:chat"}, {"model", *EVALUATIONS})
    ]


@pytest.mark.parametrize("only", [None, []])
def test_a_dataset_more_is_one_cause_of_all_that_it_brings(only):
    comparison = compare(side(make_graph(TWO), only=only), side(make_graph((*TWO, "new")), only=only))
    new = {"vector:new", "loss:composed:new", "loss:base:new"}
    assert told(comparison) == [(["datasets.new is new"], {"data:new"}, {"model", *EVALUATIONS, *new})]
    back = compare(side(make_graph((*TWO, "new")), only=only), side(make_graph(TWO), only=only))
    assert told(back) == [(["datasets.new is gone"], {"data:new"}, {"model", *EVALUATIONS, *new})]
    assert [(one.before, one.after) for one in comparison.omega] == [(0.5, 0.5), (0.5, 0.5), (None, 0.5)]


def test_a_recipe_beside_nothing_is_new_with_all_that_it_asks_for():
    recipe = side(make_graph(TWO))
    comparison = compare(Side("nothing"), recipe)
    assert {*standings(comparison).values()} == {Standing.NEW}
    assert {a for r in comparison.reasons for a in r.actions} == {*recipe.build.graph.actions}
    gone = compare(recipe, Side("nothing"))
    assert {*standings(gone).values()} == {Standing.GONE}
    assert not gone.same


def test_what_has_two_causes_is_told_once_under_both():
    graph = make_graph(TWO)
    math = graph.actions["vector:math"]
    other = with_action(graph, "vector:math", params=math.params | {"seed": 1})
    chat = graph.actions["data:chat"]
    other = with_action(other, "data:chat", params=chat.params | {"max_length": 32})
    reasons = told(compare(side(graph), side(other)))
    assert reasons == [
        (["seed: 42 → 1"], {"vector:math"}, set()),
        (["max_length: 64 → 32"], {"data:chat"}, {"vector:chat", "loss:base:chat"}),
        (["seed: 42 → 1", "max_length: 64 → 32"], set(), {"model", *EVALUATIONS}),
    ]


def rows_of(train, test=10):
    return {"splits": {"train": {"rows": train}, "validation": {"rows": 0}, "test": {"rows": test}}}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        pytest.param(314, "has 214 rows more", id="more"),
        pytest.param(99, "has 1 row fewer", id="fewer"),
        pytest.param(100, "has other rows, as many as before", id="others"),
        pytest.param(None, "has other files", id="not-prepared"),
    ],
)
def test_other_data_are_told_by_how_many_rows_they_have_more(train, said, tmp_path):
    from dem_build.action import SourceFile

    graph = make_graph(TWO)
    sides = []
    for letter, count in (("a", 100), ("b", train)):
        source = (SourceFile("jsonl", letter * 64, tmp_path / "chat.jsonl"),)
        made = Recorded(provenance={"data:chat": rows_of(count) if count else {}})
        sides.append(side(with_action(graph, "data:chat", sources=source), made))
    (reason,) = compare(*sides).reasons
    assert [c.text for c in reason.causes] == [f"datasets.chat {said}"]
    assert {*reason.follow} == {"vector:chat", "model", *EVALUATIONS, "loss:base:chat"}


def test_data_that_come_out_as_before_change_nothing_that_takes_them():
    """Early cutoff: other bytes of a file, the same rows."""
    graph = make_graph(TWO)
    chat = graph.actions["data:chat"]
    other = with_action(graph, "data:chat", params=chat.params | {"max_length": 32})

    class Same(Made):
        def make(self, action, known):
            record = super().make(action, known)
            if action.name == "data:chat":
                record.outputs.update({split: self.put(split.encode()) for split in record.outputs})
            return record

    comparison = compare(side(graph, Same()), side(other, Same()))
    assert changed(comparison) == {"data:chat"}
    assert told(comparison) == [(["max_length: 64 → 32"], {"data:chat"}, set())]


def test_an_omega_that_a_search_finds_now_is_said_so():
    graph = make_graph(TWO)
    vectors = tuple(Input("delta", Edge(f"vector:{n}", "delta"), group=n) for n in TWO)
    params = dict.fromkeys(KINDS["tune"].params, "any")
    model = graph.actions["model"]
    tune = replace(
        model, name="tune", kind=KINDS["tune"], params=params, takes=vectors, groups={n: {} for n in TWO}
    )
    takes = [replace(t, omega=None) for t in model.takes]
    tuned = replace(model, takes=(*takes, Input("omega", Edge("tune", "omega"))))
    actions = {}
    for name, action in graph.actions.items():
        actions |= {"tune": tune, "model": tuned} if name == "model" else {name: action}
    comparison = compare(side(graph, only=[]), side(replace(graph, actions=actions, omega={}), only=[]))
    causes = {c.text for r in comparison.reasons for c in r.causes}
    assert causes == {"ω is searched for", "ω of math: 0.5 → tune", "ω of chat: 0.5 → tune"}
    assert [(one.before, one.after) for one in comparison.omega] == [(0.5, None), (0.5, None)]


@settings(max_examples=40)
@given(st.data())
def test_each_action_is_matched_once_and_each_that_differs_has_one_reason(data):
    """Whatever was edited: names, rates, ω, and which datasets there are."""
    names = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)
    edits = st.fixed_dictionaries(
        {"rate": st.sampled_from([1e-5, 2e-5]), "omega": st.sampled_from([0.5, 1.0])}
    )
    only = st.sampled_from([None, []])
    sides = [side(named(*data.draw(names), **data.draw(edits)), only=data.draw(only)) for _ in range(2)]
    comparison = compare(*sides)
    changes = comparison.keys.changes
    assert sorted(c.name for c in changes if c.standing is not Standing.GONE) == sorted(
        sides[1].build.graph.actions
    )
    ours = [c.was or c.name for c in changes if c.standing is not Standing.NEW]
    assert sorted(ours) == sorted(sides[0].build.graph.actions)
    differ = sorted(c.name for c in changes if c.standing in (Standing.CHANGED, Standing.NEW, Standing.GONE))
    assert sorted(name for r in comparison.reasons for name in r.actions) == differ
    assert all(r.causes for r in comparison.reasons)
