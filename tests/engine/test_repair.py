"""Damaged inputs that several actions find at once: what made them runs again, once, and all go on with the result."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster import Cluster

from dem_build.action import Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.digest import of_json
from dem_build.engine.build import Options, _Build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done, Outcome
from dem_build.graph import Graph
from dem_build.machine import Machine
from dem_build.plan import History, make_plan, preimage_of

PREPARE = {
    "format": None, "columns": None, "chat": "auto", "system": None, "loss": None, "max_length": 64,
    "on_overflow": "drop", "validation": 0.05, "test": 0.05, "max_samples": None,
}  # fmt: skip


def graph(names: tuple[str, ...]) -> Graph:
    base = Action("base", KINDS["import"], {"source": "directory", "dtype": None})
    tokenizer = Input("base/tokenizer", Edge("base", "tokenizer"))
    data = [Action(f"data:{n}", KINDS["prepare"], PREPARE | {"system": n}, (tokenizer,)) for n in names]
    return Graph({a.name: a for a in (base, *data)})


def build(cluster: Cluster, made: Graph) -> Outcome:
    """Build where the base is recorded, and damaged."""
    silent: Any = SimpleNamespace(
        action_event=lambda *_: None, action_ended=lambda *_: None, action_started=lambda *_: None
    )
    plan = make_plan(made, cluster, History())
    cluster.damaged = cluster.recorded[base_key(made)].outputs["tokenizer"].digest
    options = Options(Machine(jobs=len(cluster.pool.workers)))
    return _Build(plan, cluster, options, silent, Interrupt(), cluster.pool).run()  # type: ignore[arg-type]


def base_key(made: Graph) -> str:
    return of_json(preimage_of(made.actions["base"], {}))


def record(cluster: Cluster, made: Graph, name: str) -> None:
    known = {"base": cluster.recorded[base_key(made)].outputs} if name != "base" else {}
    document = preimage_of(made.actions[name], known)
    cluster.make(name, of_json(document), made.actions[name].kind.name, document)


def tokenizers_taken(outcome: Outcome, names: tuple[str, ...]) -> set[str]:
    """Return the digests of the tokenizers that the datasets of an outcome were prepared with."""
    records = [outcome.results[f"data:{n}"].record for n in names]
    return {e["sha256"] for r in records if r is not None for e in r.preimage["inputs"]}


def test_workers_that_find_one_damage_at_once_repair_it_once() -> None:
    names = tuple("abcdefgh")
    cluster, made = Cluster(slots=len(names)), graph(names)
    record(cluster, made, "base")
    outcome = build(cluster, made)
    assert {r.status for r in outcome.results.values()} == {Done.RAN}
    assert cluster.ran["base"] == 2
    assert all(cluster.ran[f"data:{n}"] == 1 for n in names)


def test_what_settled_with_bytes_that_came_out_different_is_made_again_by_the_same_build() -> None:
    names = ("a", "b")
    cluster, made = Cluster(slots=1), graph(names)
    record(cluster, made, "base")
    record(cluster, made, "data:a")
    outcome = build(cluster, made)
    assert cluster.ran == {"base": 2, "data:a": 2, "data:b": 1}
    made_now = cluster.recorded[base_key(made)].outputs["tokenizer"].digest
    assert tokenizers_taken(outcome, names) == {made_now}


def test_a_run_with_bytes_that_came_out_different_meanwhile_is_not_the_result() -> None:
    names = ("a", "b")
    cluster, made = Cluster(slots=2), graph(names)
    cluster.late = {"data:a"}
    record(cluster, made, "base")
    outcome = build(cluster, made)
    assert {r.status for r in outcome.results.values()} == {Done.RAN}
    made_now = cluster.recorded[base_key(made)].outputs["tokenizer"].digest
    assert tokenizers_taken(outcome, names) == {made_now}


def test_damage_that_comes_back_each_time_fails_the_action_that_reads_it() -> None:
    cluster, made = Cluster(slots=1), graph(("a",))
    cluster.rotting = True
    record(cluster, made, "base")
    outcome = build(cluster, made)
    assert [r.action.name for r in outcome.failed] == ["data:a"]
    assert cluster.ran["base"] < 10


def test_a_result_that_is_lost_at_once_is_made_again() -> None:
    cluster, made = Cluster(slots=1), graph(("a",))
    record(cluster, made, "base")
    cluster.losing = {"data:a": 1}
    outcome = build(cluster, made)
    assert {r.status for r in outcome.results.values()} == {Done.RAN}
    assert cluster.ran["data:a"] == 2


def test_a_result_that_is_lost_each_time_fails_its_action() -> None:
    cluster, made = Cluster(slots=1), graph(("a",))
    record(cluster, made, "base")
    cluster.losing = {"data:a": 99}
    outcome = build(cluster, made)
    assert outcome.results["data:a"].status is Done.FAILED
    assert "lost at once" in str(outcome.results["data:a"].error)
