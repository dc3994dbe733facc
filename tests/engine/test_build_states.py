"""What a build looks results up by agrees with its results, whatever its workers answer; and what ends with a stop."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from build_samples import make_graph
from cluster import Cluster

from dem_build.engine import build as loop
from dem_build.engine.build import Options, _Build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done, Outcome
from dem_build.engine.pool import Message
from dem_build.engine.protocol import Answer, Reply
from dem_build.machine import Machine
from dem_build.plan import History, make_plan
from dem_build.wording import vector_name

SILENT: Any = SimpleNamespace(
    action_event=lambda *_: None,
    action_ended=lambda *_: None,
    action_started=lambda *_: None,
    action_waits=lambda *_: None,
    stopping=lambda: None,
)
WHIMS = (Answer.DONE, Answer.DONE, Answer.FAILED, Answer.HELD, Answer.CORRUPT, Answer.DIED)


class Whimsical(Cluster):
    """A store whose workers fail, find damage, die, or find that others are at work, as chance has it."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(slots=chance.choice((1, 3)))
        self.chance = chance
        self.others: list[tuple[str, str, str, Any]] = []
        self.work = SimpleNamespace(drop=lambda _key: None)
        self.leases = SimpleNamespace(
            holder=lambda _key: self.chance.choice((None, "somebody")),
            keys=lambda: frozenset(made[1] for made in self.others),
        )

    def submit(self, worker: Any, request: Any) -> None:
        worker.request = request
        answer = self.chance.choice(WHIMS)
        made = (request.name, request.key, request.kind.name, request.preimage)
        if answer is Answer.DONE or (answer is Answer.DIED and self.chance.random() < 0.5):
            self.make(*made)
        if answer in (Answer.HELD, Answer.FAILED):  # another may make it meanwhile
            self.others.append(made)
        self.pool.inbox.put(Message(worker, Reply(answer, what=str(answer)), None))

    def others_go_on(self) -> None:
        if self.others and self.chance.random() < 0.5:
            made = self.others.pop(self.chance.randrange(len(self.others)))
            if made[1] not in self.recorded:
                self.make(*made)
        if self.recorded and self.chance.random() < 0.05:  # something rots
            del self.recorded[self.chance.choice([*self.recorded])]


class Checked(_Build):
    """A build that recomputes at each turn what it keeps."""

    def _watch_idleness(self) -> None:
        super()._watch_idleness()
        self.store.others_go_on()  # type: ignore[attr-defined]
        self.check()

    def check(self) -> None:
        known = self.results
        makers: dict[str, dict[str, Done]] = {}
        for name, result in known.items():
            if result.record is not None:
                assert result.key is not None
                makers.setdefault(result.key, {})[name] = result.status
        assert {key: found for key, found in self.makers.items() if found} == makers
        assert self.failed == {n: r for n, r in known.items() if r.status is Done.FAILED}
        graph = self.plan.graph
        assert self.unprepared == {a.name for a in graph if a.kind.before_training and a.name not in known}
        for action in graph:
            assert self.missing[action.name] == {n for n in action.upstream if n not in known}
            lost = {n for n in action.upstream if n in known and known[n].record is None}
            assert self.lost[action.name] == lost
            places = [
                p for p in (known, self.due, self.held, self.fetching, self.running) if action.name in p
            ]
            assert len(places) == 1 or (not places and self.missing[action.name])


def build(cluster: Any, interrupt: Interrupt, **options: Any) -> Outcome:
    plan = make_plan(make_graph(("a", "b", "c")), cluster, History(), frozenset(options.get("rebuild", ())))
    machine = Machine(jobs=len(cluster.pool.workers))
    return Checked(plan, cluster, Options(machine, **options), SILENT, interrupt, cluster.pool).run()


@pytest.mark.parametrize("seed", range(40))
def test_what_results_are_looked_up_by_is_kept_in_step(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HELD_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.001)
    chance = random.Random(seed)
    cluster = Whimsical(chance)
    build(cluster, Interrupt(), keep_going=seed % 4 > 0)
    for _ in range(3):
        rebuild = frozenset(chance.sample(["vector:a", "data:b", "base", "model"], 2))
        outcome = build(cluster, Interrupt(), keep_going=seed % 4 > 0, rebuild=rebuild)
        assert len(outcome.results) == len(make_graph(("a", "b", "c")).actions)


def test_a_worker_that_a_signal_to_all_ended_first_did_not_fail() -> None:
    """A scheduler tells the driver and a worker that has just started, which dies of it, at the same time."""

    class Told(Cluster):
        def submit(self, worker: Any, request: Any) -> None:
            worker.request = request
            interrupt.count = 1
            self.pool.inbox.put(Message(worker, Reply(Answer.DIED, what="killed by SIGTERM"), None))  # type: ignore[arg-type]

        def others_go_on(self) -> None:
            """There are none."""

    interrupt = Interrupt()
    outcome = build(Told(1), interrupt)
    assert (outcome.interrupted, outcome.failed) == (True, [])


def test_a_failed_step_that_knows_vectors_by_digests_is_told_with_their_names() -> None:
    made: dict[str, Any] = {}

    class Failing(Cluster):
        def submit(self, worker: Any, request: Any) -> None:
            if request.name != "model":
                super().submit(worker, request)
                return
            worker.request = request
            vector = vector_name(made["vector:b"].outputs["delta"].digest)
            reply = Reply(Answer.FAILED, what=f"{vector} is large", hint=f"lower `omega` of {vector}")
            self.pool.inbox.put(Message(worker, reply, None))  # type: ignore[arg-type]

        def make(self, name: str, key: str, kind: str, document: Any) -> Any:
            made[name] = super().make(name, key, kind, document)
            return made[name]

        def others_go_on(self) -> None:
            """There are none."""

    [failed] = build(Failing(1), Interrupt()).failed
    assert failed.error is not None
    assert (failed.error.what, failed.error.hint) == ("vector:b is large", "lower `omega` of vector:b")


@pytest.mark.parametrize("made", [False, True], ids=["it died", "it recorded, and gave the lease back"])
def test_that_another_process_stopped_is_told_where_it_left_no_result(
    monkeypatch: pytest.MonkeyPatch, *, made: bool
) -> None:
    monkeypatch.setattr(loop, "HELD_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.001)
    said: list[tuple[str, Any]] = []

    class Held(Cluster):
        def submit(self, worker: Any, request: Any) -> None:
            if request.name != "base" or said or self.recorded:
                super().submit(worker, request)
                return
            worker.request = request
            self.leases.holder = lambda _key: end(request)
            self.pool.inbox.put(Message(worker, Reply(Answer.HELD, what="another has it"), None))

        def others_go_on(self) -> None:
            """There are none."""

    def end(request: Any) -> None:
        cluster.leases.holder = lambda _key: None
        if made:
            cluster.make(request.name, request.key, request.kind.name, request.preimage)

    cluster = Held(1)
    plan = make_plan(make_graph(("a",)), cluster, History())
    listener: Any = SimpleNamespace(
        **vars(SILENT) | {"action_event": lambda action, event: said.append((action.name, event["message"]))}
    )
    outcome = Checked(plan, cluster, Options(Machine(jobs=1)), listener, Interrupt(), cluster.pool).run()
    assert outcome.results["base"].status is (Done.HIT if made else Done.RAN)
    assert said == ([] if made else [("base", "who was at work on it ended without a result")])


def test_all_that_must_not_be_trained_fails_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []
    monkeypatch.setattr(_Build, "_watch_idleness", lambda _self: turns.append(1))
    cluster: Any = Cluster(1)
    plan = make_plan(make_graph(tuple(f"d{i}" for i in range(12))), cluster, History())
    options = Options(Machine(jobs=1), keep_going=True, no_train=True)
    outcome = _Build(plan, cluster, options, SILENT, Interrupt(), cluster.pool).run()
    assert len(outcome.failed) == 12
    ran = sum(cluster.ran.values())
    assert len(turns) <= ran + 2


def test_two_requests_to_stop_at_once_stop_and_kill() -> None:
    """Of jobs that were never asked to stop, a killed one runs on: the second request is to cancel them."""

    class Deaf(Cluster):
        def submit(self, worker: Any, request: Any) -> None:
            worker.request = request
            interrupt.count = 2
            worker.stop = lambda: said.append("stop")
            worker.kill = lambda: kill(worker)

        def others_go_on(self) -> None:
            """There are none."""

    def kill(worker: Any) -> None:
        said.append("kill")
        cluster.pool.inbox.put(Message(worker, Reply(Answer.DIED), None))  # type: ignore[arg-type]

    said: list[str] = []
    interrupt = Interrupt()
    cluster = Deaf(1)
    assert build(cluster, interrupt).interrupted
    assert said == ["stop", "kill"]
