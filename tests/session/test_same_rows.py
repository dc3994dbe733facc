"""Datasets with the same rows to train on are told in a plan, and in a build before a training starts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from build_samples import Made, make_graph

from dem_build.engine.outcome import Done, Result
from dem_build.session.same_rows import TellingSameRows, said, same_rows

NAMES = ("math", "chat", "code")


def prepared_alike(first="math", second="chat"):
    """A graph of which two datasets are prepared alike from the same files."""
    graph = make_graph(NAMES)
    same = replace(graph.actions[f"data:{second}"], params=graph.actions[f"data:{first}"].params)
    return replace(graph, actions={**graph.actions, same.name: same})


def made_of_the_same_rows():
    """A store where the rows of two datasets came out the same, though one is prepared otherwise."""
    made, graph = Made(), make_graph(NAMES)
    records = made.build(graph)
    records["data:code"].outputs["train"] = records["data:math"].outputs["train"]
    return made, graph, records


def listening():
    told = []
    return told, SimpleNamespace(
        action_event=lambda action, event: told.append((action.name, event["message"])),
        action_ended=lambda _: None,
    )


def test_what_is_prepared_alike_from_the_same_files_is_known_before_anything_runs():
    assert same_rows(Made().plan(prepared_alike())) == [("math", "chat")]
    assert same_rows(Made().plan(make_graph(NAMES))) == []


def test_what_came_out_the_same_is_known_by_its_digest():
    made, graph, _ = made_of_the_same_rows()
    assert same_rows(made.plan(graph)) == [("math", "code")]


def test_probes_of_the_same_rows_are_trained_on_by_nobody():
    assert same_rows(Made().plan(prepared_alike().only(["loss:base:*"]))) == []


def test_a_build_tells_once_what_its_plan_knows():
    graph = prepared_alike()
    told, listener = listening()
    telling = TellingSameRows(listener, Made().plan(graph))
    records = Made().build(graph)
    for name in NAMES:
        telling.action_ended(Result(graph.actions[f"data:{name}"], Done.RAN, record=records[f"data:{name}"]))
    assert told == [("data:chat", said(("math", "chat")))]


def test_a_build_tells_what_comes_out_the_same_as_soon_as_it_is_prepared():
    _, graph, records = made_of_the_same_rows()
    told, listener = listening()
    telling = TellingSameRows(listener, Made().plan(graph))
    for name in NAMES:
        assert told == []
        telling.action_ended(Result(graph.actions[f"data:{name}"], Done.RAN, record=records[f"data:{name}"]))
    telling.action_ended(Result(graph.actions["data:math"], Done.FAILED))
    assert told == [("data:code", said(("math", "code")))]
