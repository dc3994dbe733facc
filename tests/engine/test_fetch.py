"""Inputs that are elsewhere: brought before an action is given to a worker, and Ctrl-C meanwhile."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from shared_samples import Shared
from store_samples import tree

from dem_build.action import Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.digest import Output
from dem_build.engine.build import Options, _Build, build
from dem_build.engine.interrupt import Interrupt
from dem_build.engine.outcome import Done
from dem_build.engine.protocol import Answer, Reply
from dem_build.errors import InterruptedBuildError
from dem_build.graph import Graph
from dem_build.machine import Machine
from dem_build.plan import History, key_of, make_plan, preimage_of
from dem_build.slots import Slot
from dem_build.store import Record
from dem_build.store.remote.push import push

BASE = Action("base", KINDS["import"], {"source": "directory", "dtype": None})
PARTS = ("weights", "config", "tokenizer", "generation_config")
MODEL = Action(
    "model",
    KINDS["compose"],
    {"method": "dem", "dtype": "float32"},
    tuple(Input(f"base/{part}", Edge("base", part)) for part in PARTS),
)
GRAPH = Graph({a.name: a for a in (BASE, MODEL)})


@pytest.fixture
def two(tmp_path):
    """A machine that finds a base in a remote, whose weights are no weights."""
    shared = Shared(tmp_path)
    one = shared.machine("one")
    blobs = {
        name: one.store.objects.put_bytes(name.encode()) for name in BASE.kind.outputs if name != "weights"
    }
    outputs = {name: Output(blob.digest, blob.size) for name, blob in blobs.items()}
    outputs["weights"] = tree(one.store, {"a": b"0123456789" * 100})
    key = key_of(BASE, {})
    assert key is not None
    push(
        one.store.records.publish(Record(key, "import", preimage_of(BASE, {}), outputs, {})),
        one.store,
        one.write,
    )
    return shared.machine("two")


def run(machine, interrupt, events):
    listener: Any = SimpleNamespace(
        action_event=lambda action, event: events.append((action.name, event)),
        action_ended=lambda _: None,
        action_started=lambda verdict, _: events.append((verdict.action.name, "started")),
        stopping=lambda: None,
    )
    plan = make_plan(GRAPH, machine.store.records, History())
    return build(plan, machine.store, Options(Machine()), listener, interrupt)


def test_inputs_come_before_the_action_starts(two):
    events: list[Any] = []
    outcome = run(two, Interrupt(), events)
    base = two.store.records.lookup(key_of(BASE, {}))
    assert all(two.store.objects.present(b) for o in base.outputs.values() for b in o.blobs())
    assert ("model", "started") in events
    assert outcome.results["model"].status is Done.FAILED, "the weights are no weights, and were read"


def test_ctrl_c_ends_what_is_fetched_and_keeps_what_came(two):
    interrupt, events = Interrupt(), []
    read = two.bucket.read

    def slowly(name, start=0):
        for byte in b"".join(read(name, start)):
            if name.endswith(two.store.records.lookup(key_of(BASE, {})).outputs["weights"].files["a"].digest):
                time.sleep(0.02)
                interrupt.count = 1
            yield bytes([byte])

    two.bucket.read = slowly
    begun = time.monotonic()
    outcome = run(two, interrupt, events)
    assert outcome.interrupted
    assert outcome.results["model"].status is Done.SKIPPED
    assert ("model", "started") not in events
    assert time.monotonic() - begun < 10
    for _ in range(100):
        if left := [p for p in two.store.root.glob("remote/parts/*") if p.stat().st_size]:
            break
        time.sleep(0.05)
    assert 0 < left[0].stat().st_size < 1000


class _Worker(SimpleNamespace):
    """What a build asks of a worker, which it keeps in sets and tables."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("idle", [False, True])
def test_whose_inputs_came_while_no_worker_was_free_others_may_run(two, *, idle):
    """One training at a time runs here: with the leases of all whose data was fetched, others would wait in vain."""
    calls: list[Any] = []
    leases: Any = SimpleNamespace(
        take=lambda key, needs: calls.append(("take", key, sorted(needs))),
        release=lambda key: calls.append(("release", key)),
    )
    heavy = replace(MODEL, kind=replace(MODEL.kind, light=False))
    plan = make_plan(Graph({"base": BASE, "model": heavy}), two.store.records, History())
    given: list[Any] = []
    worker: Any = _Worker(
        takes=lambda _kind: True, submit=given.append, slot=Slot((), 1), request=None, pid=1
    )
    free = [worker]
    pool: Any = SimpleNamespace(idle=lambda: free)
    listener: Any = SimpleNamespace(action_event=lambda *_: None, action_ended=lambda _: None)
    running = _Build(plan, two.store, Options(Machine(), leases=leases), listener, Interrupt(), pool)
    for verdict in plan.verdicts.values():
        running._take(verdict)
    calls.clear()
    running._dispatch()
    assert list(running.fetching) == ["model"]
    key, base = plan.verdicts["model"].key, plan.verdicts["base"].record
    blobs = {blob.digest for taken in heavy.takes for blob in base.outputs[taken.at.output].blobs()}
    assert calls == [("take", key, sorted(blobs))]
    while running.fetching["model"][1].running:
        time.sleep(0.01)
    if not idle:
        free.clear()
    running._give_out()
    assert bool(given) is idle
    assert (("release", key) in calls) is not idle


def test_an_action_whose_inputs_ctrl_c_stopped_has_not_failed(two):
    """While another one runs, whose end is waited for, what was being fetched ends first."""
    plan = make_plan(GRAPH, two.store.records, History())
    ended: list[Any] = []
    listener: Any = SimpleNamespace(action_ended=ended.append, action_event=lambda *_: None)
    pool: Any = None
    running = _Build(plan, two.store, Options(Machine()), listener, Interrupt(), pool)
    fetch: Any = SimpleNamespace(running=False, error=InterruptedBuildError("stopped"), missing=[1])
    running._take(plan.verdicts["base"])
    running.fetching["model"] = plan.verdicts["model"], fetch
    running.stopping = 1
    running._take_fetched()
    assert [(r.action.name, r.status, r.error) for r in ended] == [("model", Done.SKIPPED, None)]


@pytest.mark.parametrize(
    ("resumes", "note"), [(False, "stopped; it starts over"), (True, "stopped; its state is saved")]
)
def test_what_was_stopped_is_said_to_be_saved_only_where_it_is(two, resumes, note):
    action = replace(MODEL, kind=replace(MODEL.kind, resumes=resumes))
    plan = make_plan(Graph({"base": BASE, "model": action}), two.store.records, History())
    ended: list[Any] = []
    listener: Any = SimpleNamespace(action_ended=ended.append, action_event=lambda *_: None)
    pool: Any = None
    running = _Build(plan, two.store, Options(Machine()), listener, Interrupt(), pool)
    running.stopping = 1
    message: Any = SimpleNamespace(reply=Reply(Answer.INTERRUPTED, 1.0))
    running._finish(plan.verdicts["model"], message)
    assert [(result.status, result.note) for result in ended] == [(Done.SKIPPED, note)]
