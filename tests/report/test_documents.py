"""The JSON documents of plans, builds and failures."""

from __future__ import annotations

import json

from build_samples import Made, make_graph, outcome_of

from dem_build.engine.outcome import Done, Result
from dem_build.errors import Problem, RecipeError, StoreError, TrainingError
from dem_build.recipe.sections import Gate
from dem_build.report.documents import build_document, failure_document, plan_document
from dem_build.report.gates import check
from dem_build.report.results import collect


def strict(document):
    """What a strict reader of JSON gets."""
    return json.loads(json.dumps(document, allow_nan=False))


def test_a_plan_lists_each_action_with_its_verdict_and_the_outputs_it_takes():
    made = Made()
    made.build(make_graph(rate=3e-5))
    document = strict(plan_document("tiny.toml", made.plan(make_graph(rate=2e-5))))
    actions = {a["name"]: a for a in document["actions"]}
    assert document["recipe"] == "tiny.toml"
    assert list(actions) == list(make_graph().actions)
    assert (actions["base"]["kind"], actions["base"]["status"], actions["base"]["inputs"]) == (
        "import",
        "hit",
        [],
    )
    vector = actions["vector:math"]
    assert (vector["kind"], vector["status"]) == ("finetune", "run")
    assert vector["inputs"] == ["base/weights", "data:math/train"]
    assert "3e-05 → 2e-05" in vector["reason"]
    assert len(vector["key"]) == 64
    assert (actions["model"]["status"], actions["model"]["key"]) == ("pending", None)
    assert all(set(a) == {"name", "kind", "status", "reason", "key", "inputs"} for a in document["actions"])


def test_a_build_has_what_became_of_actions_the_model_its_results_and_gates():
    graph, made = make_graph(), Made()
    records = made.build(graph)
    results = collect(graph, records, made.read)
    gates = check([Gate(task="arc_easy", metric="acc", min=0.2)], results)
    outcome = outcome_of(graph, records, {"vector:math": Done.RAN})
    document = strict(build_document("tiny.toml", outcome, "out/tiny/model", results, gates))
    assert list(document) == [
        "recipe",
        "actions",
        "model",
        "spent",
        "model_digest",
        "omega",
        "cost",
        "results",
        "gates",
        "verdict",
    ]
    vector = next(a for a in document["actions"] if a["name"] == "vector:math")
    assert vector == {
        "name": "vector:math",
        "kind": "finetune",
        "status": "ran",
        "seconds": 12.5,
        "key": records["vector:math"].key,
    }
    assert document["model"] == "out/tiny/model"
    assert document["omega"] == {"math": 0.5}
    assert document["results"]["composed"]["loss:math"]["loss"] == 2.0
    (gate,) = document["gates"]
    assert (gate["task"], gate["metric"], gate["value"], gate["passed"]) == ("arc_easy", "acc", 0.26, True)


def test_a_failed_build_says_which_action_failed_and_why():
    graph = make_graph()
    failed = Result(
        graph.actions["vector:math"], Done.FAILED, 3.0, "k" * 64, error=TrainingError("the loss is NaN")
    )
    outcome = outcome_of(graph, {}, {"model": Done.SKIPPED}, vector=failed)
    document = strict(build_document("tiny.toml", outcome, None, None))
    statuses = {a["name"]: (a["status"], a.get("error")) for a in document["actions"]}
    assert statuses["vector:math"] == ("failed", "the loss is NaN")
    assert statuses["model"] == ("skipped", None)
    assert (document["model"], document["model_digest"], document["results"]) == (None, None, {})


def test_a_value_that_is_no_number_is_null():
    graph, made = make_graph(), Made(metrics={("base", "arc_easy"): b'{"acc": NaN}'})
    records = made.build(graph)
    results = collect(graph, records, made.read)
    gates = check([Gate(task="arc_easy", metric="acc", min=0.2)], results)
    document = strict(build_document("r", outcome_of(graph, records), None, results, gates))
    assert document["results"]["base"]["arc_easy"] == {"acc": None}


def test_a_wrong_recipe_is_a_document_with_all_of_its_problems():
    problems = [
        Problem("a.toml", 3, "train.lr", "unknown key", "learning_rate?"),
        Problem("a.toml", 1, "", "empty"),
    ]
    document = strict(failure_document("a.toml", RecipeError(problems)))
    assert document["actions"] == []
    assert [p["line"] for p in document["error"]["problems"]] == [1, 3]
    assert document["error"]["problems"][1]["hint"] == "learning_rate?"


def test_another_failure_says_what_where_and_how_to_mend_it():
    document = failure_document("a.toml", StoreError("no space", where="cache", hint="free some"))
    assert document["error"] == {"what": "no space", "where": "cache", "hint": "free some"}
