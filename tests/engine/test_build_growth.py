"""What a build does for one more action does not depend on how many there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from build_samples import make_graph
from cluster import Cluster
from growth import assert_linear, calls_of

from dem_build.action import key_of
from dem_build.engine import build as loop
from dem_build.engine.backlog import Backlog
from dem_build.engine.build import MOST_LOOKS, Options, _Build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done, Result
from dem_build.machine import Machine
from dem_build.plan import History, make_plan, preimage_of


@pytest.mark.parametrize("jobs", [1, 8])
def test_a_build_takes_as_many_calls_for_an_action_among_many_as_among_few(jobs: int) -> None:
    silent: Any = SimpleNamespace(
        action_event=lambda *_: None, action_ended=lambda *_: None, action_started=lambda *_: None
    )

    def calls(datasets: int) -> int:
        cluster: Any = Cluster(jobs)
        made = make_graph(tuple(f"d{i}" for i in range(datasets)))
        plan = make_plan(made, cluster, History())
        options = Options(Machine(jobs=jobs), keep_going=True)
        building = _Build(plan, cluster, options, silent, Interrupt(), cluster.pool)
        found = calls_of(lambda: outcomes.append(building.run()))
        assert {r.status for r in outcomes[-1].results.values()} == {Done.RAN}
        assert sum(cluster.ran.values()) == len(made.actions)
        return found

    outcomes: list[Any] = []
    calls(1)  # what is imported at the first time
    assert_linear(calls, (20, 60, 140))


def _building(datasets: int, **more: Any) -> tuple[_Build, Any]:
    silent: Any = SimpleNamespace(
        action_event=lambda *_: None,
        action_ended=lambda *_: None,
        action_started=lambda *_: None,
        action_waits=lambda *_: None,
    )
    cluster: Any = Cluster(1)
    plan = make_plan(make_graph(tuple(f"d{i}" for i in range(datasets))), cluster, History())
    options = Options(Machine(), keep_going=True, **more)
    return _Build(plan, cluster, options, silent, Interrupt(), cluster.pool), cluster


@pytest.mark.parametrize("last_first", [False, True])
def test_failures_that_others_made_good_cost_as_many_calls_among_many_as_among_few(last_first: bool) -> None:
    def calls(datasets: int) -> int:
        building, cluster = _building(datasets)
        graph = building.plan.graph.actions
        building._take(building.plan.verdicts["base"])

        def settle(name: str, status: Done) -> None:
            action = graph[name]
            document = preimage_of(action, building._known(action))
            key = key_of(document)
            if status is Done.FAILED:
                return building._settle(Result(action, status, key=key))
            record = cluster.make(name, key, action.kind.name, document)
            return building._settle(Result(action, status, 0.0, key, record))

        vectors = [f"vector:d{i}" for i in range(datasets)]

        def run() -> None:
            for name in ("base", *(n.replace("vector", "data") for n in vectors)):
                settle(name, Done.RAN)
            for name in reversed(vectors) if last_first else vectors:
                settle(name, Done.FAILED)
            assert building.results["model"].note.startswith("depends on vector:d")
            for name in vectors:
                action = graph[name]
                document = preimage_of(action, building._known(action))
                cluster.make(name, key_of(document), action.kind.name, document)
            building.looked_at = float("-inf")
            building._look_at_others()
            assert {building.results[name].status for name in vectors} == {Done.HIT}
            assert not building.failed
            assert "model" in building.due

        return calls_of(run)

    calls(1)
    assert_linear(calls, (20, 60, 140))


@pytest.mark.parametrize("jobs", [False, True])
def test_what_a_living_lease_is_of_waits_here_and_is_left_to_a_cluster_that_knows_its_job(jobs: bool) -> None:
    cluster: Any = SimpleNamespace() if jobs else None
    building, store = _building(1, cluster=cluster)
    store.leases.holder = lambda _key: "a job"
    building._take(building.plan.verdicts["base"])
    building._dispatch()
    assert ("base" in building.running, "base" in building.held) == (jobs, not jobs)


def test_looks_at_what_others_run_do_not_grow_with_how_many_there_are_and_see_all_that_came() -> None:
    """Each of sixty workers would else look at what sixty have, each second."""
    looks: Counter[str] = Counter()

    def looked(workers: int) -> int:
        building, store = _building(workers)
        building._take(building.plan.verdicts["base"])
        building._settle(Result(building.plan.graph.actions["base"], Done.RAN, 0.0, None, None))
        looks.clear()
        verdicts = {
            f"data:d{i}": replace(building.plan.verdicts[f"data:d{i}"], key=f"{i:064x}", preimage={})
            for i in range(workers)
        }
        building.held = dict(verdicts)
        there = {verdict.key for verdict in verdicts.values()}
        store.leases.keys = lambda: frozenset(there)
        store.leases.holder = lambda key: looks.update([key]) or "another"

        def look() -> None:
            building.looked_at = float("-inf")
            building._look_at_others()

        look()
        once = looks.total()
        for _ in range(-(-workers // MOST_LOOKS) - 1):
            look()
        assert set(looks.values()) <= {1, 2}
        assert len(looks) == workers, "one was passed over, whose holder may have died"
        last = f"data:d{workers - 1}"
        key = building.held[last].key
        there.discard(key)  # given back, as it is recorded
        store.make(last, key, "prepare", {})
        look()
        assert building.results[last].status is Done.HIT
        assert len(building.held) == workers - 1
        return once

    assert [looked(8), looked(60), looked(300)] == [MOST_LOOKS] * 3


@pytest.mark.parametrize("workers", [10, 12, 20, 40])
def test_all_that_others_run_is_asked_for_in_turn_who_share_a_remote_alone(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """There is a look each second and a question each five: a dead holder's action would else wait for hours."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: 0.0))
    keys = [f"{i:064x}" for i in range(workers)]
    leases: Any = SimpleNamespace(keys=lambda: frozenset(keys))
    building, store = _building(workers, leases=leases)
    building.looked_at = building.asked_at = 0.0
    building.held = {
        f"data:d{i}": replace(building.plan.verdicts[f"data:d{i}"], key=key) for i, key in enumerate(keys)
    }
    asked: Counter[str] = Counter()
    store.ask_again = asked.update
    while now[0] < 60:
        now[0] += 0.25
        building._look_at_others()
        for name in [name for name in building.due if building.due[name].key in asked]:
            building.held[name] = building.due.pop(name)  # the remote says that its holder lives
    assert asked.keys() == {*keys}


def test_a_look_that_took_long_is_not_taken_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: now[0]))
    building, store = _building(1)
    building.held, building.looked_at = {"base": building.plan.verdicts["base"]}, 0.0
    taken = []

    def slowly(_key: object) -> str:
        taken.append(now[0])
        now[0] += 2.0
        return "another"

    store.leases.holder = slowly
    while now[0] < 100:
        building._look_at_others()
        now[0] += 0.5
    assert len(taken) == 3


def test_a_backlog_knows_what_is_the_same_work_under_several_names() -> None:
    plan = make_plan(make_graph(("a", "b")), Cluster(1), History())
    one, two, other = (
        replace(plan.verdicts[f"data:{n}"], key=k) for n, k in (("a", "1"), ("b", "1"), ("b", "2"))
    )
    backlog = Backlog(plan.graph)
    backlog["data:a"], backlog["data:b"] = one, two
    assert backlog.of_key("1") == [one, two]
    backlog["data:b"] = other
    assert (backlog.of_key("1"), backlog.of_key("2"), len(backlog)) == ([one], [other], 2)
    del backlog["data:a"]
    assert (backlog.of_key("1"), [*backlog]) == ([], ["data:b"])


def test_a_backlog_is_in_order_and_may_change_while_it_is_gone_through() -> None:
    graph = make_graph(("a", "b", "c"))
    plan = make_plan(graph, Cluster(1), History())
    backlog = Backlog(graph)
    for name in ("vector:b", "model", "data:b", "vector:a", "data:c"):
        backlog[name] = plan.verdicts[name]
    assert [*backlog] == ["vector:a", "data:b", "vector:b", "data:c", "model"]
    assert [*backlog.names(trainings=False)] == ["data:b", "data:c", "model"]
    seen = []
    for name in backlog:
        seen.append(name)
        if name == "data:b":
            del backlog["data:b"], backlog["vector:b"]
            for more in ("data:a", "vector:c"):
                backlog[more] = plan.verdicts[more]
    assert seen == ["vector:a", "data:b", "data:c", "vector:c", "model"]
    assert [*backlog] == ["data:a", "vector:a", "data:c", "vector:c", "model"]
    assert len(backlog) == 5
    assert backlog.pop("vector:b", None) is None
