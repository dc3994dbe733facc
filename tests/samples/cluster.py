"""Workers that answer at once, and the records that they make, to see what a build does between."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from dem_build.actions import KINDS
from dem_build.digest import Output, of_json
from dem_build.engine.pool import Message, Pool
from dem_build.engine.protocol import Answer, Reply
from dem_build.slots import Slot
from dem_build.store import Record


class Cluster:
    """A store, and workers that answer at once: the base is damaged, and comes out different when it is made again."""

    def __init__(self, slots: int) -> None:
        self.recorded: dict[str, Record] = {}
        self.records = self  # as a store has them
        self.objects = SimpleNamespace(away=lambda _blobs: [])
        self.leases = SimpleNamespace(holder=lambda _key: None, keys=frozenset)
        self.ran: Counter[str] = Counter()
        self.damaged: str | None = None
        self.rotting = False  # whether the base is damaged each time it is read
        self.late: set[str] = set()  # these answer only after the base was made again
        self.losing: dict[str, int] = {}  # name → how often what it makes is gone before anybody looks
        self.waiting: list[Message] = []
        self.pool: Any = Pool([Slot((), 1)] * slots, None)  # type: ignore[arg-type]
        for worker in self.pool.workers:
            worker.submit = lambda request, worker=worker: self.submit(worker, request)
            worker.runs_in = lambda _process: True

    def lookup(self, key: str) -> Record | None:
        record = self.recorded.get(key)
        broken = record is not None and any(o.digest == self.damaged for o in record.outputs.values())
        return None if broken else record

    def peek(self, key: str) -> Record | None:
        return self.recorded.get(key)

    def expect(self, keys: Any) -> None:
        """All of them are here."""

    def submit(self, worker: Any, request: Any) -> None:
        worker.request = request
        taken = {i.at.digest for i in request.inputs}
        if self.rotting and taken:
            [self.damaged] = taken
        if self.damaged in taken and request.name not in self.late:
            reply = Reply(Answer.CORRUPT, what="an object holds other bytes")
        else:
            assert {e["sha256"] for e in request.preimage["inputs"]} == taken
            self.make(request.name, request.key, request.kind.name, request.preimage)
            reply = Reply(Answer.DONE)
            if self.losing.get(request.name, 0) > 0:
                self.losing[request.name] -= 1
                del self.recorded[request.key]
        message = Message(worker, reply, None)  # type: ignore[arg-type]
        if request.name in self.late:
            self.waiting.append(message)
            return
        self.pool.inbox.put(message)
        if request.name == "base":
            for message in self.waiting:
                self.pool.inbox.put(message)
            self.late.clear()

    def make(self, name: str, key: str, kind: str, document: Any) -> Record:
        self.ran[name] += 1
        outputs = {o: Output(of_json([key, o, self.ran[name]]), 1) for o in KINDS[kind].outputs}
        self.recorded[key] = Record(key, kind, document, outputs, {})
        return self.recorded[key]
