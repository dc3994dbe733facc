"""Actions that share a machine's memory: the next one starts where it fits, and one alone in any case."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from build_samples import make_graph
from cluster import Cluster

from dem_build.engine import build as loop
from dem_build.engine.build import Options, _Build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.pool import Message
from dem_build.engine.protocol import Answer, Reply
from dem_build.machine import Machine
from dem_build.plan import History, make_plan

NEED = 6
SAID = "it needs about 0.0 GB of memory, and 0.0 GB are left beside vector:"


class Watched(Cluster):
    """Counts how many trainings run at once, and which idle workers were ended."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.most, self.ended = 0, set[Any]()
        for worker in self.pool.workers:
            worker.kill = lambda worker=worker: self.ended.add(worker)

    def submit(self, worker: Any, request: Any) -> None:
        super().submit(worker, request)
        running = [w.request.name for w in self.pool.workers if w.request is not None]
        self.most = max(self.most, sum(name.startswith("vector:") for name in running))


class Memory:
    """Of which a training takes six."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.asked: list[tuple[str, set[str]]] = []

    def told_by(self, action: Any) -> tuple[str, ...]:
        return ("base", *action.upstream)

    def of(self, action: Any, records: Any) -> int:
        self.asked.append((action.name, {*records}))
        return NEED if action.kind.trains else 0


@pytest.mark.parametrize(
    ("free", "most"), [(3 * NEED, 3), (3 * NEED - 1, 2), (2 * NEED - 1, 1), (NEED - 1, 1)]
)
def test_as_many_trainings_run_at_once_as_fit_and_all_of_them_run(free: int, most: int) -> None:
    cluster, memory, waits = Watched(3), Memory(free), dict[str, str]()
    listener: Any = SimpleNamespace(
        action_event=lambda *_: None,
        action_ended=lambda *_: None,
        action_started=lambda *_: None,
        action_waits=lambda action, why: waits.setdefault(action.name, why),
        stopping=lambda: None,
    )
    plan = make_plan(make_graph(("a", "b", "c")), cluster, History())
    options = Options(Machine(jobs=3), memory=memory)
    outcome = _Build(plan, cluster, options, listener, Interrupt(), cluster.pool).run()  # type: ignore[arg-type]
    assert not outcome.failed
    assert all(cluster.ran[f"vector:{name}"] == 1 for name in "abc")
    assert cluster.most == most
    assert ("vector:a", {"base", "data:a"}) in memory.asked
    assert len(waits) == 3 - most
    assert all(why.startswith(SAID) for why in waits.values())


def test_what_does_not_fit_is_asked_of_once_until_something_happens() -> None:
    cluster, memory, waits = Watched(2), Memory(NEED), list[str]()
    listener: Any = SimpleNamespace(
        action_event=lambda *_: None,
        action_ended=lambda *_: None,
        action_started=lambda *_: None,
        action_waits=lambda action, _: waits.append(action.name),
    )
    plan = make_plan(make_graph(tuple("abcdefgh")), cluster, History())
    options = Options(Machine(jobs=2), memory=memory)
    build = _Build(plan, cluster, options, listener, Interrupt(), cluster.pool)  # type: ignore[arg-type]
    for verdict in plan.verdicts.values():
        build._take(verdict)
    while not (waits and build.starved):
        cluster.late.add("vector:a")  # the base's answer would bring it
        build._receive()
        build._dispatch()
    asked = len(memory.asked)
    for _ in range(10):
        build._dispatch()
    assert (len(memory.asked), build.starved) == (asked, True)
    cluster.pool.inbox.put(*cluster.waiting)  # the first training has ended
    build._receive()
    build._dispatch()
    assert len(memory.asked) > asked
    assert sum(name.startswith("vector:") for name in build.running) == 1


def test_what_idle_workers_keep_loaded_makes_room() -> None:
    cluster = Watched(2)
    plan = make_plan(make_graph(("a", "b")), cluster, History())
    build = _Build(
        plan,
        cluster,
        Options(Machine(jobs=2), memory=Memory(NEED)),
        SimpleNamespace(),
        Interrupt(),
        cluster.pool,  # type: ignore[arg-type]
    )
    first, second = cluster.pool.workers
    build.needs[first] = 1
    assert build._fits(plan.verdicts["vector:a"], second)
    assert (cluster.ended, build.needs) == ({first}, {})


def test_what_waits_for_memory_is_found_when_another_has_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vector:a` runs, and `vector:b` does not fit beside it; what evaluates that need not wait as well."""
    monkeypatch.setattr(loop, "HELD_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.001)
    ended: list[str] = []

    class Slow(Watched):
        """Whose `vector:a` ends when what takes `vector:b` has, or after 200 turns."""

        turns = 0

        def submit(self, worker: Any, request: Any) -> None:
            if request.name != "vector:a":
                super().submit(worker, request)
                return
            worker.request = request
            verdict = build.due["vector:b"]
            self.make("vector:b", verdict.key, "finetune", {"by": "another"})
            self.ran["vector:b"] -= 1

        def end(self) -> None:
            self.turns += 1
            [worker] = [w for w in self.pool.workers if w.request and w.request.name == "vector:a"] or [None]
            if worker is not None and (self.turns == 200 or "loss:b:b" in ended):
                super().submit(worker, worker.request)

    class Turning(loop._Build):
        def _watch_idleness(self) -> None:
            super()._watch_idleness()
            cluster.end()

    cluster = Slow(2)
    listener: Any = SimpleNamespace(
        action_event=lambda *_: None,
        action_ended=lambda result: ended.append(result.action.name),
        action_started=lambda *_: None,
        action_waits=lambda *_: None,
        stopping=lambda: None,
    )
    plan = make_plan(make_graph(("a", "b")), cluster, History())
    options = Options(Machine(jobs=2), memory=Memory(NEED))
    build = Turning(plan, cluster, options, listener, Interrupt(), cluster.pool)  # type: ignore[arg-type]
    outcome = build.run()
    assert not outcome.failed
    assert cluster.ran["vector:b"] == 0
    assert ended.index("vector:b") < ended.index("vector:a")


@pytest.mark.parametrize(("light", "kept"), [(True, {NEED}), (False, set())])
def test_a_light_action_leaves_loaded_what_its_worker_keeps(light: bool, kept: set[int]) -> None:
    cluster = Watched(1)
    plan = make_plan(make_graph(("a",)), cluster, History())
    options = Options(Machine(jobs=1), memory=Memory(NEED))
    build = _Build(plan, cluster, options, SimpleNamespace(), Interrupt(), cluster.pool)  # type: ignore[arg-type]
    [worker] = cluster.pool.workers
    build.needs[worker] = NEED
    base = plan.verdicts["base"]
    build.due["base"] = replace(
        base, action=replace(base.action, kind=replace(base.action.kind, light=light))
    )
    build._dispatch()
    assert {n for n in build.needs.values() if n} == kept


def test_a_worker_that_died_keeps_nothing_loaded() -> None:
    cluster = Watched(1)
    plan = make_plan(make_graph(("a",)), cluster, History())
    options = Options(Machine(jobs=1), memory=Memory(NEED))
    build = _Build(plan, cluster, options, SimpleNamespace(), Interrupt(), cluster.pool)  # type: ignore[arg-type]
    [worker] = cluster.pool.workers
    build.needs[worker] = NEED
    build._handle(Message(worker, Reply(Answer.DIED), None))
    assert build.needs == {}
