"""The build loop: what is due goes to idle workers, what they publish may settle or free others, until nothing is left.

One thread decides everything; replies of workers reach it through a queue, and it follows their event files. Each
time an action's last unknown input becomes known, `plan.decide` is asked again: a hit there is early cutoff.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from dem_build.engine.backlog import Backlog
from dem_build.engine.copied import POSSIBLE
from dem_build.engine.fetch import Fetch
from dem_build.engine.outcome import Done, Outcome, Result, hit
from dem_build.engine.pool import Pool
from dem_build.engine.protocol import Answer, EventTail, request_for
from dem_build.errors import ActionError, CorruptObjectError, DemError, NotUpToDateError
from dem_build.hardware import gigabytes
from dem_build.plan import Status, decide, key_of
from dem_build.slots import slots
from dem_build.wording import together, vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dem_build.action import Action
    from dem_build.digest import Blob, Digest, Output
    from dem_build.engine.interrupt import Interrupt
    from dem_build.engine.jobs.cluster import Cluster
    from dem_build.engine.outcome import Listener
    from dem_build.engine.pool import Message, Worker
    from dem_build.engine.protocol import Reply
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record, Store
    from dem_build.store.remote.leases import RemoteLeases

TICK_SECONDS = 0.1
HELD_RETRY_SECONDS = 1.0
MOST_LOOKS = 8
"""Of the actions that others run, those that are looked at by themselves each time, in turn, as their holders may have
died. All others a listing tells of: what a look costs must not grow with how many workers there are, as looks do. As
many are looked at of those that are due and may not start yet."""
RESTS = 20
"""Times the CPU time of a look until the next one, at least: a worker with a thousand failures looks at each."""
ASK_AGAIN_SECONDS = 5.0
"""Between two looks at what others do who share a remote alone: each look is a request for each action that waits."""
BY_ANOTHER = "built by another process"
MOST_REPAIRS = 3
MOST_FETCHED = 8
"""Actions whose inputs are brought at once: the next ones are on their way while others run."""


class Memory(Protocol):
    """The memory that actions share which run at once on this machine."""

    @property
    def free(self) -> int:
        """Bytes that were free before any of them ran."""

    def told_by(self, action: Action) -> Iterable[str]:
        """The actions by whose records one knows what an action needs."""

    def of(self, action: Action, records: Mapping[str, Record]) -> int:
        """The bytes that an action needs, about; 0 where it is not known.

        Args:
            action: What is to run.
            records: Action → its record, of those that tell as far as they are made.
        """


@dataclass(frozen=True)
class Options:
    """How a build is run.

    Attributes:
        machine: How to use this machine: the machine file, and what the call says in its place.
        keep_going: After a failure, go on with what does not depend on it.
        no_train: Fail where a vector would have to be trained.
        rebuild: Actions that run whatever is recorded.
        until_idle: Seconds after which a build ends that could start nothing, as others run what is left. Default: it
            waits for them.
        leases: What keeps machines that share a remote alone from doing one work twice. That of an action that ran is
            given back by who pushes its record, all others by the build.
        cluster: Where all but light actions run. Default: on this machine.
        own_process: Nothing but dem runs in this process: it may be copied for light actions, and its memory arranged.
        memory: What actions share that run at once: one starts beside others where it fits, and alone in any case.
            Default: nothing, each has its own.
    """

    machine: Machine
    keep_going: bool = False
    no_train: bool = False
    rebuild: frozenset[str] = frozenset()
    until_idle: float | None = None
    leases: RemoteLeases | None = None
    cluster: Cluster | None = None
    own_process: bool = True
    memory: Memory | None = None


def build(plan: Plan, store: Store, options: Options, listener: Listener, interrupt: Interrupt) -> Outcome:
    """Run what is due of a plan and return what became of each action.

    A failed action does not raise; it is in the outcome, and so is an interruption.
    """
    if options.own_process:
        gc.freeze()  # what there is stays, and need not be looked through
        gc.enable()  # `dem` starts without it
    # Of a cluster's driver one slot is enough: what runs on it takes moments.
    here = slots(options.machine)[: 1 if options.cluster else None]
    pool = Pool(here, *store.places, cluster=options.cluster, copies=POSSIBLE and options.own_process)
    try:
        with interrupt.counting():
            return _Build(plan, store, options, listener, interrupt, pool).run()
    finally:
        pool.kill()
        if options.cluster is not None:
            options.cluster.close()


@dataclass
class _Build:
    plan: Plan
    store: Store
    options: Options
    listener: Listener
    interrupt: Interrupt
    pool: Pool
    results: dict[str, Result] = field(default_factory=dict)
    due: Backlog = field(init=False)
    held: dict[str, Verdict] = field(default_factory=dict)
    running: dict[str, tuple[Verdict, EventTail]] = field(default_factory=dict)
    fetching: dict[str, tuple[Verdict, Fetch]] = field(default_factory=dict)
    fetched: threading.Event = field(default_factory=threading.Event)
    rebuilt: set[str] = field(default_factory=set)
    repairs: Counter[str] = field(default_factory=Counter)
    stopping: int = 0
    starved: bool = False
    heard: int = 0
    looked_over: tuple[object, ...] | None = None
    idle_since: float | None = None
    looked_at: float = field(default_factory=time.monotonic)
    asked_at: float = field(default_factory=time.monotonic)
    rest: float = 0.0
    needs: dict[Worker, int] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)
    looked_up: str | None = None

    # What one result changes is looked up and not looked for: a build of ten thousand actions has as many results.
    dependents: dict[str, list[Action]] = field(default_factory=dict)
    missing: dict[str, set[str]] = field(default_factory=dict)
    lost: dict[str, set[str]] = field(default_factory=dict)
    unprepared: set[str] = field(default_factory=set)
    failed: dict[str, Result] = field(default_factory=dict)
    makers: dict[Digest, dict[str, Done]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.due = Backlog(self.plan.graph)
        for action in self.plan.graph:
            self.missing[action.name], self.lost[action.name] = {*action.upstream}, set()
            for name in action.upstream:
                self.dependents.setdefault(name, []).append(action)
        self.unprepared = {a.name for a in self.plan.graph if a.kind.before_training}

    # An action is in one of `results`, `due`, `held` (by another process), `fetching` (its inputs) and `running`, or
    # else waits for an input to be made.

    def run(self) -> Outcome:
        for verdict in self.plan.verdicts.values():
            self._take(verdict)
        while self._unfinished():
            # Looked at before anything is given out: what starts after Ctrl-C would never hear of it.
            self._heed_interrupt()
            self._look_at_others()
            self._give_out()
            self._receive()
            self._follow_events()
            self._watch_idleness()
        for _, fetch in self.fetching.values():
            fetch.stop()
        for action in self.plan.graph:
            if action.name not in self.results:
                self._settle(Result(action, Done.SKIPPED))
        ordered = {name: self.results[name] for name in self.plan.graph.actions}
        return Outcome(ordered, interrupted=self.stopping > 0)

    # What is left to do.

    def _unfinished(self) -> bool:
        if self.running:  # also after a failure or Ctrl-C: what runs ends, or saves its state
            return True
        if self._winding_down():
            return False
        return bool(self.fetching) or (bool(self.due or self.held) and not self._idle_for_long())

    def _watch_idleness(self) -> None:
        """Note since when nothing could be started, though workers are there."""
        if self.running or self.fetching or not self.starved:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = time.monotonic()

    def _idle_for_long(self) -> bool:
        bound = self.options.until_idle
        if bound is None or self.idle_since is None:
            return False
        return time.monotonic() - self.idle_since >= bound

    def _winding_down(self) -> bool:
        return self.stopping > 0 or (bool(self.failed) and not self.options.keep_going)

    # Verdicts.

    def _take(self, verdict: Verdict) -> None:
        """File an action under what its verdict says."""
        if verdict.status is Status.HIT:
            self._settle(hit(verdict), quiet=True)
        elif verdict.status is Status.RUN:
            self.due[verdict.action.name] = verdict

    def _settle(self, result: Result, *, quiet: bool = False) -> None:
        """Note what became of an action, and look again at those that waited for it."""
        self._note(result)
        self.due.pop(result.action.name, None)
        # The lease of what ran is given back by who pushes its record.
        if self.options.leases is not None and Done.RAN not in self._makers(result.key).values():
            self._release(result.key)
        if not quiet:
            self.listener.action_ended(result)
            self._settle_the_same(result)
            self._look_again(result.action)

    def _settle_the_same(self, result: Result) -> None:
        """Settle what is the same work under another name: a training of it may wait for nothing else."""
        if result.key is None or result.record is None:
            return
        for verdict in self.due.of_key(result.key):
            if self.due.get(verdict.action.name) is verdict and verdict.record is None:
                self._settle(self._found(verdict, result.record))

    def _note(self, result: Result) -> None:
        """Enter a result, in place of an earlier one, under all that it is looked up by."""
        name = result.action.name
        if name in self.results:
            self._forget(name)
        self.results[name] = result
        self.unprepared.discard(name)
        if result.status is Done.FAILED:
            self.failed[name] = result
        if result.record is not None and result.key is not None:
            self.makers.setdefault(result.key, {})[name] = result.status
        for action in self.dependents.get(name, ()):
            self.missing[action.name].discard(name)
            if result.record is None:
                self.lost[action.name].add(name)

    def _forget(self, name: str) -> None:
        result = self.results.pop(name, None)
        self.failed.pop(name, None)
        if result is not None:
            self._makers(result.key).pop(name, None)
        if self.plan.graph.actions[name].kind.before_training:
            self.unprepared.add(name)
        for action in self.dependents.get(name, ()):
            self.missing[action.name].add(name)
            self.lost[action.name].discard(name)

    def _makers(self, key: Digest | None) -> dict[str, Done]:
        """The actions of this build whose result has a key, the first of them first, and what became of each."""
        return self.makers.get(key, {}) if key is not None else {}

    def _look_again(self, settled: Action) -> None:
        for action in self.dependents.get(settled.name, ()):
            # A forced run or a repair may give other bytes than the ones that its dependents were decided with.
            if self._outdated(action):
                self._unsettle(action.name)
            if self._waiting(action):
                self._reconsider(action)

    def _outdated(self, action: Action) -> bool:
        """Whether an action settled with inputs that came out different when they were made again, or came at last."""
        result = self.results.get(action.name)
        if result is None:
            return False
        if result.record is None:
            return result.status is Done.SKIPPED and not self.stopping and not self.lost[action.name]
        if self.missing[action.name]:
            return False  # nothing can be said of it yet
        key = key_of(action, self._known(action))
        return key is not None and key != result.key

    def _unsettle(self, name: str) -> None:
        """Forget a result that is made again; what was about to run with it waits for what comes out."""
        self._forget(name)
        for action in self.dependents.get(name, ()):
            self.due.pop(action.name, None)
            self.held.pop(action.name, None)

    def _waiting(self, action: Action) -> bool:
        places = (self.results, self.due, self.held, self.fetching, self.running)
        return not any(action.name in place for place in places)

    def _reconsider(self, action: Action) -> None:
        if lost := self.lost[action.name]:
            first = next(name for name in action.upstream if name in lost)
            self._settle(Result(action, Done.SKIPPED, note=f"depends on {first}"))
            return
        if self.missing[action.name]:
            return  # nothing can be said of it yet
        # What was asked for is forced once, not after each repair.
        rebuild = self.options.rebuild - self.rebuilt
        verdict = decide(action, self._known(action), self.store.records, self.plan.history, rebuild)
        if verdict.status is Status.HIT:  # early cutoff: inputs were made again, and came out as they were
            self._settle(hit(verdict))
        else:
            self._take(verdict)

    def _known(self, action: Action) -> Mapping[str, Mapping[str, Output]]:
        """The outputs of what an action takes from, as far as they are known."""
        return {name: record.outputs for name, record in self._records(action.upstream).items()}

    def _records(self, names: Iterable[str]) -> dict[str, Record]:
        found = {name: self.results[name].record for name in names if name in self.results}
        return {name: record for name, record in found.items() if record is not None}

    # Workers.

    def _give_out(self) -> None:
        brought = self._take_fetched()
        self._dispatch()
        for name in brought:  # for which no worker here is free: others may run it meanwhile
            if (verdict := self.due.get(name)) is not None:
                self._release(verdict.key)

    def _dispatch(self) -> None:
        if self._winding_down():
            self.starved = False
            return
        if self._standing() == self.looked_over:
            return  # else a thousand actions that wait for memory would be asked of ten times a second
        self.starved = False
        vain: set[type[Worker]] = set()
        for worker in self.pool.idle():
            if type(worker) in vain:
                continue  # what one finds nothing for, its likes do not either
            verdict = self._next(worker)
            if verdict is None and self._winding_down():  # it found one that nobody may run
                return
            if verdict is None:
                self.starved = True
                vain.add(type(worker))
                continue
            self.running[verdict.action.name] = (verdict, EventTail())
            known = self._known(verdict.action)
            if not verdict.action.kind.light:  # which leaves loaded what the worker keeps
                self.needs[worker] = self._needed(verdict.action)
            worker.submit(request_for(verdict, known, self.options.machine, worker.slot.threads))
        self.looked_over = self._standing()

    def _standing(self) -> tuple[object, ...]:
        """What decides which actions may start: where nothing of it is another, none may that could not before."""
        idle = tuple(self.pool.idle())
        return self.due.changes, self.heard, len(self.fetching), len(self.unprepared), idle

    def _next(self, worker: Worker) -> Verdict | None:
        """Take the next action that a worker may start from those that are due; one that none may start fails."""
        # A training is dear: each dataset is known to be sound before the first one starts.
        for name in self.due.names(trainings=self.options.no_train or not self.unprepared):
            verdict = self.due[name]
            if not worker.takes(verdict.action.kind):
                continue
            if any(verdict.key == other.key for other, _ in self.running.values()):
                continue  # the same work under another name
            if verdict.action.kind.trains and self.options.no_train:
                del self.due[name]
                self._settle(_not_trained(verdict))
                if self._winding_down():
                    return None
                continue
            away = self._away(verdict)
            if (away and len(self.fetching) == MOST_FETCHED) or not self._fits(verdict, worker):
                continue
            if self._taken(verdict):
                continue
            del self.due[name]
            if not away:
                return verdict
            self.fetching[name] = (verdict, Fetch(self.store, away, self.fetched))
        return None

    def _fits(self, verdict: Verdict, worker: Worker) -> bool:
        """Whether memory holds an action on a worker beside what runs on others; alone it may try in any case."""
        memory, action, needed = self.options.memory, verdict.action, self._needed(verdict.action)
        if memory is None or not needed:
            return True
        others = {other: n for other, n in self.needs.items() if n and other is not worker}
        busy = [other for other in others if other.request is not None]
        left = memory.free - sum(others[other] for other in busy)
        if busy and needed > left:
            beside = together(other.request.name for other in busy if other.request is not None)
            self._tell_crowded(action, needed, f"{gigabytes(max(left, 0))} are left beside {beside}")
            return False
        if needed + sum(others.values()) > memory.free:
            # What idle workers keep loaded takes room, and nobody waits for it.
            for other in others.keys() - busy:
                other.kill()
                del self.needs[other]
        return True

    def _needed(self, action: Action) -> int:
        memory = self.options.memory
        return 0 if memory is None else memory.of(action, self._records(memory.told_by(action)))

    def _tell_crowded(self, action: Action, needed: int, left: str) -> None:
        if action.name not in self.crowded:
            self.crowded.add(action.name)
            what = f"it needs about {gigabytes(needed)} of memory, and {left}"
            self.listener.action_waits(action, what)

    def _taken(self, verdict: Verdict) -> bool:
        """Whether another process has an action that is due, or has made it since: no worker is started for that."""
        assert verdict.key is not None
        if verdict.record is not None:  # forced: its lease alone counts, which the worker takes
            return False
        if (record := self.store.records.lookup(verdict.key)) is not None:
            self._settle(self._found(verdict, record))
            return True
        # A cluster looks by itself: what has the lease may be the job of a driver that died, and is waited for then.
        here = self.options.cluster is None or verdict.action.kind.light
        if here and (holder := self.store.leases.holder(verdict.key)) is not None:
            self._hold(verdict, f"{holder} is at work on this action")
            return True
        return not self._leased(verdict)

    def _leased(self, verdict: Verdict) -> bool:
        """Whether an action is this machine's to run, beside all that share a remote with it."""
        leases = self.options.leases
        if leases is None or verdict.action.kind.light:
            return True  # a request takes as long as the work
        assert verdict.key is not None
        needs = {blob.digest for blob in self._taken_objects(verdict)}
        if (holder := leases.take(verdict.key, needs)) is not None:
            self._hold(verdict, holder)
            return False
        # Who had the lease before us gave it back when the record was there.
        self.store.records.ask_again([verdict.key])
        if (record := self.store.records.lookup(verdict.key)) is not None:
            self._settle(self._found(verdict, record))
            return False
        return True

    def _release(self, key: Digest | None) -> None:
        if self.options.leases is not None and key is not None:
            self.options.leases.release(key)

    def _hold(self, verdict: Verdict, holder: str) -> None:
        self._release(verdict.key)
        self.due.pop(verdict.action.name, None)
        self.held[verdict.action.name] = verdict
        self.listener.action_waits(verdict.action, holder)

    def _receive(self) -> None:
        if not self.running:
            self.fetched.wait(
                TICK_SECONDS
            )  # all that is left is held by other processes, or comes from elsewhere
            self.fetched.clear()
            return
        try:
            message = self.pool.inbox.get(timeout=TICK_SECONDS)
        except queue.Empty:
            return
        self.heard += 1
        self._handle(message)

    def _handle(self, message: Message) -> None:
        request, reply = message.worker.request, message.reply
        if reply.answer is Answer.DIED and message.worker.runs_in(message.process):
            self.needs.pop(message.worker, None)
        if request is None or message.stale:
            return
        verdict, tail = self.running[request.name]
        if reply.answer is Answer.TOLD:
            self.listener.action_event(verdict.action, {"event": "note", "message": reply.what})
            return
        if reply.answer is Answer.QUEUED:
            self.listener.action_event(verdict.action, {"event": "queued", "message": reply.what})
            return
        if reply.answer is Answer.STARTED:
            tail.follow(reply.work)
            self.listener.action_started(verdict, message.worker.pid)
            return
        # What it said comes before the news that it ended, on every screen.
        self._follow_events()
        self._follow_to_the_end(verdict.action, tail, reply.log)
        message.worker.request = None
        del self.running[request.name]
        self._heed_interrupt()  # what ended a worker may have been meant for all of us, and been heard meanwhile
        self._finish(verdict, message)

    def _finish(self, verdict: Verdict, message: Message) -> None:
        reply, action = message.reply, verdict.action
        if not self.stopping and key_of(action, self._known(action)) != verdict.key:
            # An input was found damaged meanwhile and is made again: whatever this run says is of the old one.
            self._release(verdict.key)
            self._reconsider(action)
        elif reply.answer in (Answer.DONE, Answer.FOUND):
            self._finish_recorded(verdict, message)
        elif reply.answer is Answer.DIED and (record := self._left_by(verdict)) is not None:
            seconds, note = record.amount("seconds") or 0.0, "its worker died when this was recorded"
            self._settle(Result(action, Done.RAN, seconds, verdict.key, record, note=note))
        elif reply.answer is Answer.HELD:
            self._hold(verdict, reply.what)
        elif reply.answer is Answer.CORRUPT and self._may_repair(action):
            self._repair(verdict, reply.what)
        elif reply.answer is Answer.INTERRUPTED or self._ended_by_stopping(reply):
            # A scheduler, or the second Ctrl-C, ends workers as well: that is no failure of what they ran.
            interrupted = reply.answer is Answer.INTERRUPTED
            saved = "its state is saved" if interrupted else "its checkpoints are kept"
            note = f"stopped; {saved if action.kind.resumes else 'it starts over'}"
            note = reply.what if interrupted and reply.what else note  # of a job its cluster tells
            self._settle(Result(action, Done.SKIPPED, reply.seconds, verdict.key, note=note))
        else:
            known = self._known(action)
            what, hint = (_with_names(text or "", action, known) for text in (reply.what, reply.hint))
            error = ActionError(what, where=action.name, hint=hint or None)
            self._settle(Result(action, Done.FAILED, reply.seconds, verdict.key, error=error))

    def _ended_by_stopping(self, reply: Reply) -> bool:
        return self.stopping > 1 or (self.stopping > 0 and reply.answer is Answer.DIED)

    def _finish_recorded(self, verdict: Verdict, message: Message) -> None:
        assert verdict.key is not None
        record = self.store.records.lookup(verdict.key)  # the store's word counts, not the worker's
        if record is None and self._may_repair(verdict.action):
            self._reconsider(verdict.action)
            return
        if record is None:
            error = CorruptObjectError(
                "its result was lost at once", where=verdict.action.name, hint="`dem cache verify`"
            )
            self._settle(Result(verdict.action, Done.FAILED, key=verdict.key, error=error))
            return
        self.rebuilt.add(verdict.action.name)
        reply = message.reply
        if reply.answer is Answer.DONE:
            self._settle(
                Result(verdict.action, Done.RAN, reply.seconds, verdict.key, record, note=reply.note)
            )
        else:
            self._settle(self._found(verdict, record))

    def _found(self, verdict: Verdict, record: Record) -> Result:
        """The result of an action that was recorded meanwhile, and who did that."""
        ours = next(iter(self._makers(record.key)), None)
        note = f"the same as {ours}" if ours is not None else BY_ANOTHER
        return replace(hit(verdict), record=record, note=note)

    def _left_by(self, verdict: Verdict) -> Record | None:
        """What a worker recorded before it died; of a forced run nobody can tell, as a record was there."""
        assert verdict.key is not None
        record = self.store.records.lookup(verdict.key) if verdict.record is None else None
        if record is not None:
            self.store.work.drop(verdict.key)  # which it did not come to
        return record

    def _may_repair(self, action: Action) -> bool:
        """Count how often inputs of an action were damaged, and return whether it may go on."""
        self.repairs[action.name] += 1
        return self.repairs[action.name] <= MOST_REPAIRS

    def _repair(self, verdict: Verdict, what: str) -> None:
        """An input is damaged and now in quarantine: what made it is due again, and this action waits for it."""
        self.listener.action_event(
            verdict.action, {"event": "warning", "message": f"{what}; it is made again"}
        )
        self._release(verdict.key)
        # All inputs: which of them it was, the store alone knows, and those that are whole are hits at once.
        for name in verdict.action.upstream:
            self._unsettle(name)
        for action in self.plan.graph:
            if self._waiting(action):
                self._reconsider(action)

    # Inputs that are elsewhere.

    def _away(self, verdict: Verdict) -> list[Blob]:
        """What an action takes that is not here."""
        return self.store.objects.away(self._taken_objects(verdict))

    def _taken_objects(self, verdict: Verdict) -> Iterator[Blob]:
        known = self._known(verdict.action)
        for taken in verdict.action.takes:
            yield from known[taken.at.action][taken.at.output].blobs()

    def _take_fetched(self) -> list[str]:
        """See to the actions for whose inputs nothing more is coming; those that may start now."""
        brought = []
        for name, (verdict, fetch) in list(self.fetching.items()):
            if fetch.running:
                self.listener.action_event(verdict.action, fetch.progress())
                continue
            del self.fetching[name]
            if key_of(verdict.action, self._known(verdict.action)) != verdict.key:
                self._release(verdict.key)
                self._reconsider(verdict.action)  # an input is made again meanwhile
            elif self.stopping:
                note = "stopped; what came is kept"
                self._settle(Result(verdict.action, Done.SKIPPED, key=verdict.key, note=note))
            elif fetch.error is not None:
                self._settle(Result(verdict.action, Done.FAILED, key=verdict.key, error=fetch.error))
            elif not (missing := fetch.missing):
                self.due[name] = verdict
                brought.append(name)
            else:
                self._make_again(verdict, missing)
        return brought

    def _make_again(self, verdict: Verdict, missing: Sequence[Blob]) -> None:
        """Inputs came from nowhere, whatever was recorded elsewhere: what made them is due."""
        what = f"object {missing[0].digest} is in no remote with the bytes of its name"
        if self._may_repair(verdict.action):
            self._repair(verdict, what)
        else:
            error = CorruptObjectError(what, where=verdict.action.name, hint="`dem cache verify --remote`")
            self._settle(Result(verdict.action, Done.FAILED, key=verdict.key, error=error))

    # Other processes, events, the user.

    def _look_at_others(self) -> None:
        """Look what became of the actions that others run, and whether they made what failed or waits here."""
        begun, used = time.monotonic(), time.thread_time()
        if begun - self.looked_at < max(HELD_RETRY_SECONDS, self.rest):
            return
        forced = self.options.rebuild - self.rebuilt  # whose records are those of before
        failed = [result for name, result in self.failed.items() if name not in forced]
        shared = self.options.leases is not None
        asks = shared and begun - self.asked_at >= ASK_AGAIN_SECONDS
        held, passed = self._worth_a_look(asks=asks), self._passed_over() if asks or not shared else []
        if asks:
            keys = [v.key for v in (*held.values(), *passed)] + [r.key for r in failed]
            self.store.records.ask_again(key for key in keys if key is not None)
            self.asked_at = begun
        for name, verdict in held.items():
            if (
                self.held.get(name) is verdict
            ):  # else what was settled just now made it wait for something else
                self._look_at_another(name, verdict, asks=asks or not shared)
        for verdict in passed:
            self._take_if_recorded(verdict)
        for result in failed if not self._winding_down() else ():
            if result.key is not None and (record := self.store.records.lookup(result.key)) is not None:
                self._settle(Result(result.action, Done.HIT, 0.0, result.key, record, note=BY_ANOTHER))
        self.looked_at = time.monotonic()
        self.rest = RESTS * (time.thread_time() - used)

    def _look_at_another(self, name: str, verdict: Verdict, *, asks: bool) -> None:
        """Look what became of an action that another process has.

        Args:
            name: The action.
            verdict: What was decided of it.
            asks: Whether its lease is looked at as well as its record.
        """
        assert verdict.key is not None
        # Before the record, which is there when a lease is given back.
        free = asks and self.store.leases.holder(verdict.key) is None
        record = self.store.records.lookup(verdict.key)
        if record is not None:
            del self.held[name]
            self._settle(self._found(verdict, record))
        elif free:
            del self.held[name]  # it gave up or died: the action is ours to run
            self.due[name] = verdict
            if self.options.leases is None:  # else a lease of the remote may still be another's
                told = "who was at work on it ended without a result"
                self.listener.action_event(verdict.action, {"event": "note", "message": told})
        elif asks:  # a look that asks nobody leaves the turn to those that are next
            self.held[name] = self.held.pop(name)  # behind those that were not looked at

    def _worth_a_look(self, *, asks: bool) -> dict[str, Verdict]:
        """Of the actions that others have, those whose lease is there no more, and of the others the next few.

        Args:
            asks: Whether it is time to ask a remote that is shared; until then its leases are not known.
        """
        given_back: dict[str, Verdict] = {}
        if self.held and (asks or self.options.leases is None):
            there = self.store.leases.keys()
            there |= self.options.leases.keys() if self.options.leases is not None else frozenset()
            given_back = {name: verdict for name, verdict in self.held.items() if verdict.key not in there}
        others = ((name, verdict) for name, verdict in self.held.items() if name not in given_back)
        return given_back | dict(islice(others, MOST_LOOKS))

    def _passed_over(self) -> list[Verdict]:
        """The next few of what is due while a worker is idle: it waits for memory, for data or for its inputs."""
        if not self.starved:
            return []
        names = list(islice(self.due.names(trainings=True, after=self.looked_up), MOST_LOOKS))
        self.looked_up = names[-1] if names else None
        return [self.due[name] for name in names]

    def _take_if_recorded(self, verdict: Verdict) -> None:
        """Settle an action that is due if another process has made it."""
        if (
            self.due.get(verdict.action.name) is not verdict
            or verdict.record is not None
            or verdict.key is None
        ):
            return  # settled meanwhile, or forced: its record is that of before
        if (record := self.store.records.lookup(verdict.key)) is not None:
            self._settle(self._found(verdict, record))

    def _follow_events(self) -> None:
        for verdict, tail in self.running.values():
            for event in tail.read():
                self.listener.action_event(verdict.action, event)

    def _follow_to_the_end(self, action: Action, tail: EventTail, log: Blob | None) -> None:
        """Tell what an action said since the last look: once it is recorded its folder is gone, and its log tells."""
        with suppress(CorruptObjectError):  # only what it said would be lost
            for event in tail.read_rest(self.store.objects.read_bytes(log)) if log is not None else ():
                self.listener.action_event(action, event)

    def _heed_interrupt(self) -> None:
        if self.interrupt.count == self.stopping:
            return
        first, self.stopping = not self.stopping, self.interrupt.count
        self.listener.stopping()
        for _, fetch in self.fetching.values():
            fetch.stop()
        if first:  # also where two come at once: a job that was not to stop would run on
            self.pool.stop()
        if self.stopping > 1:
            self.pool.kill()


def _with_names(text: str, action: Action, known: Mapping[str, Mapping[str, Output]]) -> str:
    """A message of a step, which knows vectors by their digests, with what this build calls them."""
    names: dict[str, list[str]] = {}
    for taken in action.takes:
        if taken.of == "delta" and taken.at.action in known:
            digest = known[taken.at.action][taken.at.output].digest
            names.setdefault(vector_name(digest), []).append(taken.at.action)
    for vector, called in names.items():
        text = text.replace(vector, " and ".join(dict.fromkeys(called)))
    return text


def _not_trained(verdict: Verdict) -> Result:
    error: DemError = NotUpToDateError(
        f"this vector is not in the cache ({verdict.reason}), and --no-train forbids to train it",
        where=verdict.action.name,
        hint="build without --no-train, or point --cache at the one that has it",
    )
    return Result(verdict.action, Done.FAILED, key=verdict.key, error=error)
