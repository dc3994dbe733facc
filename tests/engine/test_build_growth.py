"""What a build does for one more action does not depend on how many there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from build_samples import make_graph
from cluster import Cluster
from growth import assert_linear, calls_of

from dem_build.engine.backlog import Backlog
from dem_build.engine.build import Options, _Build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done
from dem_build.machine import Machine
from dem_build.plan import History, make_plan


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
