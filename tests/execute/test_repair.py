"""Damaged inputs that several actions find at once: what made them runs again, once, and all go on with the result."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from dem_build.digest import of_json
from dem_build.execute.build import _Build
from dem_build.execute.interrupt import Interrupt
from dem_build.execute.options import Options
from dem_build.execute.outcome import Done
from dem_build.execute.pool import Message, Pool
from dem_build.execute.request import Answer, Reply
from dem_build.execute.slots import Slot
from dem_build.graph import Action, Edge, Graph, Taken
from dem_build.kinds import KINDS
from dem_build.machine import Machine
from dem_build.plan import History, make_plan, preimage_of
from dem_build.store import Output, Record

PREPARE = {
    "format": None, "columns": None, "chat": "auto", "system": None, "loss": None, "max_length": 64,
    "on_overflow": "drop", "validation": 0.05, "test": 0.05, "max_samples": None,
}  # fmt: skip


class Cluster:
    """A store, and workers that answer at once: the base is damaged, and comes out different when it is made again."""

    def __init__(self, slots: int) -> None:
        self.records: dict[str, Record] = {}
        self.ran: Counter[str] = Counter()
        self.damaged: str | None = None
        self.pool: Any = Pool([Slot((), 1)] * slots, None)  # type: ignore[arg-type]
        for worker in self.pool.workers:
            worker.submit = lambda request, worker=worker: self.submit(worker, request)
            worker.runs_in = lambda _process: True

    def lookup(self, key: str) -> Record | None:
        record = self.records.get(key)
        broken = record is not None and any(o.digest == self.damaged for o in record.outputs.values())
        return None if broken else record

    def peek(self, key: str) -> Record | None:
        return self.records.get(key)

    def submit(self, worker: Any, request: Any) -> None:
        worker.request = request
        taken = {i.output.digest for i in request.inputs}
        if self.damaged in taken:
            reply = Reply(Answer.CORRUPT, what="an object holds other bytes")
        else:
            assert {e["sha256"] for e in request.preimage["inputs"]} == taken
            self.make(request.name, request.key, request.kind, request.preimage)
            reply = Reply(Answer.DONE)
        self.pool.inbox.put(Message(worker, reply, None))  # type: ignore[arg-type]

    def make(self, name: str, key: str, kind: str, document: Any) -> Record:
        self.ran[name] += 1
        outputs = {o: Output(of_json([key, o, self.ran[name]]), 1) for o in KINDS[kind].outputs}
        self.records[key] = Record(key, kind, document, outputs, {})
        return self.records[key]


def graph(names: tuple[str, ...]) -> Graph:
    base = Action("base", "import", {"source": "directory", "dtype": None})
    tokenizer = Taken("base/tokenizer", Edge("base", "tokenizer"))
    data = [Action(f"data:{n}", "prepare", PREPARE | {"system": n}, (tokenizer,)) for n in names]
    return Graph({a.name: a for a in (base, *data)})


def test_workers_that_find_one_damage_at_once_repair_it_once() -> None:
    names = tuple("abcdefgh")
    cluster, made = Cluster(slots=len(names)), graph(names)
    document = preimage_of(made.actions["base"], {})
    base = cluster.make("base", of_json(document), "import", document)
    plan = make_plan(made, cluster, History())
    cluster.damaged = base.outputs["tokenizer"].digest
    silent: Any = SimpleNamespace(
        action_event=lambda *_: None, action_ended=lambda *_: None, action_started=lambda *_: None
    )
    options = Options(Machine(), jobs=len(names))
    outcome = _Build(plan, cluster, options, silent, Interrupt(), cluster.pool).run()  # type: ignore[arg-type]
    assert {r.status for r in outcome.results.values()} == {Done.RAN}
    assert cluster.ran["base"] == 2
    assert all(cluster.ran[f"data:{n}"] == 1 for n in names)
