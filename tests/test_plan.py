"""Graph and plan: verdicts and reasons after each kind of edit, without running anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from build_samples import TRAIN

from dem_build import action as action_module
from dem_build.action import Action, Edge, Input, SourceFile
from dem_build.actions import KINDS
from dem_build.digest import Blob, Output, of_json
from dem_build.errors import UsageError
from dem_build.graph import Graph
from dem_build.plan import (
    Difference,
    History,
    Plan,
    Reason,
    Status,
    Why,
    decide,
    differences,
    make_plan,
    preimage_of,
)
from dem_build.store import Record

PREPARE = {
    "format": None,
    "columns": None,
    "chat": "auto",
    "system": None,
    "loss": None,
    "max_length": 64,
    "on_overflow": "drop",
    "validation": 0.05,
    "test": 0.05,
    "max_samples": None,
}


def source(tag: str, content: str) -> SourceFile:
    return SourceFile(tag, of_json(content), Path("/nowhere"))


def graph(*, rate: float = 2e-5, rows: str = "rows", omega: float = 0.5, base: str = "base") -> Graph:
    """A base, two datasets and their composition."""
    parts = ("weights", "config", "tokenizer", "generation_config")
    actions = [
        Action(
            "base", KINDS["import"], {"source": "directory", "dtype": None}, sources=(source("model", base),)
        )
    ]
    for name, text in (("math", rows), ("chat", "talk")):
        tokenizer = Input("base/tokenizer", Edge("base", "tokenizer"))
        actions.append(
            Action(f"data:{name}", KINDS["prepare"], PREPARE, (tokenizer,), (source("jsonl", text),))
        )
    for name in ("math", "chat"):
        takes = (
            Input("base/weights", Edge("base", "weights")),
            Input("base/config", Edge("base", "config")),
            Input("data/train", Edge(f"data:{name}", "train")),
        )
        params = TRAIN | {"learning_rate": rate if name == "math" else 2e-5}
        actions.append(Action(f"vector:{name}", KINDS["finetune"], params, takes))
    bases = [Input(f"base/{part}", Edge("base", part)) for part in parts]
    deltas = [
        Input("delta", Edge("vector:math", "delta"), omega),
        Input("delta", Edge("vector:chat", "delta"), 0.5),
    ]
    actions.append(
        Action("model", KINDS["compose"], {"method": "dem", "dtype": "bfloat16"}, (*bases, *deltas))
    )
    return Graph({a.name: a for a in actions})


class Made:
    """Records in memory. `make` runs an action as a function of its key alone; `same` makes a rerun come out equal."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.lost: set[str] = set()

    def lookup(self, key: str) -> Record | None:
        return None if key in self.lost else self.records.get(key)

    def expect(self, keys: object) -> None:
        """All of them are here."""

    def peek(self, key: str) -> Record | None:
        return self.records.get(key)

    def build(self, graph: Graph, *, same: tuple[str, ...] = ()) -> tuple[list[str], History]:
        """Do what a build does, and return what ran."""
        ran, keys, known = [], {}, {}
        for action in graph:
            verdict = decide(action, known, self, History())
            assert verdict.key is not None
            if verdict.status is Status.RUN:
                ran.append(action.name)
                seed = action.name if action.name in same else verdict.key
                outputs = {o: Output(of_json([seed, o]), 1) for o in action.kind.outputs}
                self.records[verdict.key] = Record(
                    verdict.key, action.kind.name, verdict.preimage, outputs, {}
                )
                self.lost.discard(verdict.key)
            record = self.records[verdict.key]
            known[action.name] = record.outputs
            keys[action.name] = verdict.key
        return ran, History(keys)


def statuses(plan: Plan) -> dict[str, str]:
    return {name: v.status.value for name, v in plan.verdicts.items()}


def test_nothing_is_known_before_the_first_build() -> None:
    plan = make_plan(graph(), Made(), History())
    assert statuses(plan)["base"] == "run"
    assert set(statuses(plan).values()) == {"run", "pending"}
    assert plan.verdicts["base"].reason.why is Why.FIRST
    assert str(plan.verdicts["vector:math"].reason) == "depends on base, data:math"


def test_everything_is_a_hit_after_a_build() -> None:
    made = Made()
    made.build(graph())
    assert make_plan(graph(), made, History()).up_to_date


def test_a_learning_rate_trains_its_vector_and_composes() -> None:
    made = Made()
    _, history = made.build(graph())
    plan = make_plan(graph(rate=1e-4), made, history)
    assert {n for n, s in statuses(plan).items() if s != "hit"} == {"vector:math", "model"}
    reason = plan.verdicts["vector:math"].reason
    assert str(reason) == "changed: params.learning_rate: 2e-05 → 0.0001"
    assert statuses(plan)["model"] == "pending"


def test_another_omega_composes_and_names_the_term() -> None:
    made = Made()
    _, history = made.build(graph())
    plan = make_plan(graph(omega=0.25), made, history)
    assert {n for n, s in statuses(plan).items() if s != "hit"} == {"model"}
    assert [d.place for d in plan.verdicts["model"].reason.differences] == ["delta"]
    assert "0.25 × vector:math" in str(plan.verdicts["model"].reason)


def test_new_rows_that_prepare_to_the_same_tokens_are_cut_off_early() -> None:
    made = Made()
    made.build(graph(), same=("data:math",))
    ran, _ = made.build(graph(rows="rows\n"), same=("data:math",))
    assert ran == ["data:math"]


def test_new_rows_name_the_source_that_changed() -> None:
    made = Made()
    _, history = made.build(graph())
    plan = make_plan(graph(rows="others"), made, history)
    assert [d.place for d in plan.verdicts["data:math"].reason.differences] == ["sources.jsonl"]


def test_a_changed_input_is_named_by_its_output() -> None:
    made = Made()
    _, history = made.build(graph())
    changed = graph(rows="others")
    known = {n: made.records[k].outputs for n, k in history.keys.items()}
    known["data:math"] = {o: Output(of_json(["new", o]), 1) for o in KINDS["prepare"].outputs}
    verdict = decide(changed.actions["vector:math"], known, made, history)
    assert [d.place for d in verdict.reason.differences] == ["data:math/train"]


def test_a_lost_object_makes_its_action_due_and_says_so() -> None:
    made = Made()
    _, history = made.build(graph())
    made.lost.add(history.keys["vector:chat"])
    plan = make_plan(graph(), made, history)
    assert plan.verdicts["vector:chat"].reason.why is Why.LOST
    assert statuses(plan)["model"] == "pending"


def test_rebuild_runs_a_recorded_action_and_what_follows_waits_for_it() -> None:
    made = Made()
    made.build(graph())
    plan = make_plan(graph(), made, History(), frozenset({"vector:math"}))
    assert statuses(plan)["vector:math"] == "run"
    assert plan.verdicts["vector:math"].reason.why is Why.ASKED
    assert statuses(plan)["model"] == "pending"


def test_a_target_takes_what_it_depends_on_and_nothing_else() -> None:
    assert list(graph().only(["vector:math"]).actions) == ["base", "data:math", "vector:math"]


def test_an_unknown_target_is_a_mistake_of_the_call() -> None:
    with pytest.raises(UsageError, match="vector:maths"):
        graph().only(["vector:maths"])


def named(*actions: str) -> Graph:
    return Graph({name: Action(name, KINDS["import"], {}) for name in actions})


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (["loss:*:a"], ["loss:composed:a", "loss:base:a"]),
        (["*:a"], ["vector:a", "loss:composed:a", "loss:base:a", "task:a"]),
        (
            ["loss:base:*", "vector:a", "loss:*:a"],
            ["loss:base:a", "loss:base:A", "vector:a", "loss:composed:a"],
        ),
        (["loss:base:?"], ["loss:base:a", "loss:base:A"]),
        (["loss:base:[A-Z]"], ["loss:base:A"]),
        (["task:[a]"], ["task:[a]"]),  # which is an action's name, and as a pattern would mean task:a
    ],
)
def test_a_pattern_means_every_action_that_it_matches(asked: list[str], meant: list[str]) -> None:
    graph = named("vector:a", "loss:composed:a", "loss:base:a", "loss:base:A", "task:a", "task:[a]")
    assert graph.matching(asked) == meant
    assert {*graph.only(asked).actions} == {*meant}


def test_where_one_action_is_wanted_a_pattern_has_to_match_one() -> None:
    graph = named("vector:a", *(f"loss:base:{n}" for n in range(12)))
    assert graph.action("*:a").name == "vector:a"
    with pytest.raises(UsageError, match=r"'loss:\*' matches 12 actions, .*: loss:base:0, .*:7 and 4 more"):
        graph.action("loss:*")


def test_another_kind_is_the_whole_reason() -> None:
    changes = (Difference("delta", "a", None), Difference("kind", "compose", "match"), Difference("z", 1, 2))
    assert str(Reason(Why.CHANGED, changes)) == "changed: kind: compose → match"
    assert str(Reason(Why.CHANGED, changes[::2])) == "changed: delta: a → nothing; z: 1 → 2"


def test_a_salt_makes_an_action_due() -> None:
    made = Made()
    _, history = made.build(graph())
    salted = dict(graph().actions)
    salted["vector:math"] = dataclasses.replace(salted["vector:math"], salt="again")
    plan = make_plan(Graph(salted), made, history)
    assert str(plan.verdicts["vector:math"].reason) == "changed: salt: nothing → again"


def test_an_importance_that_changed_is_told_of_its_vector_alone():
    """Groups have no names in keys: a vector, or rows, stand for them."""

    def preimage(importance: float, limit: float) -> dict:
        groups = {"math": {"importance": importance}, "chat": {"limit": limit}}
        params = dict.fromkeys(KINDS["tune"].params, 1)
        search = Action("tune", KINDS["tune"], params, groups=groups)
        vector = Input("delta", Blob("7" * 64, 0), group="math")
        return action_module.preimage(search, [vector, Input("data/rows", Blob("9" * 64, 0), group="chat")])

    action = Action("tune", KINDS["tune"], {})
    changed = [str(d) for d in differences(preimage(1.0, 0.1), preimage(2.0, 0.1), action, {})]
    assert changed == ["delta 777777777777, importance: 1.0 → 2.0"]
    changed = [str(d) for d in differences(preimage(1.0, 0.1), preimage(1.0, 0.2), action, {})]
    assert changed == ["data/rows 999999999999, limit: 0.1 → 0.2"]


def held_out(prompts: int | None) -> Record:
    """Rows as a record tells of them: 20 in each split, of so many prompts."""
    splits = {split: {"rows": 20, "prompts": prompts} for split in ("train", "validation", "test")}
    outputs = {split: Output(of_json(split), 1) for split in splits}
    return Record("data", "prepare", {}, outputs, {"splits": splits})


def test_a_loss_on_rows_that_share_prompts_is_another_one_and_a_training_on_them_is_not() -> None:
    tag = Input("data/rows", Edge("data:math", "test"))
    loss = Action("loss:base:math", KINDS["loss"], {"dtype": "bfloat16"}, (tag,))
    training = graph().actions["vector:math"]
    known = {"base": {part: Output(of_json(part), 1) for part in ("weights", "config")}}
    documents = {
        prompts: {
            action.name: preimage_of(action, known | {"data:math": held_out(prompts).outputs})
            for action in (loss, training)
        }
        for prompts in (None, 20, 5)
    }
    assert documents[None] == documents[20]
    assert documents[5]["vector:math"] == documents[20]["vector:math"]
    before, after = (documents[prompts]["loss:base:math"] for prompts in (20, 5))
    test = of_json("test")
    assert [str(d) for d in differences(before, after, loss, {})] == [
        f"data:math/test: {test[:12]} → prompt by prompt {test[:12]}"
    ]


def test_a_probe_whose_rows_share_prompts_is_told_of() -> None:
    search = Action("tune", KINDS["tune"], dict.fromkeys(KINDS["tune"].params, 1), groups={"chat": {}})

    def preimage(*, repeats: bool) -> dict:
        rows = Output("9" * 64, 1, repeats=repeats)
        return action_module.preimage(search, [Input("data/rows", rows, group="chat")])

    changed = differences(preimage(repeats=False), preimage(repeats=True), search, {})
    assert [str(d) for d in changed] == ["data/rows 999999999999: taken → prompt by prompt taken"]
