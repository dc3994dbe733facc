"""How long what is due will take: by earlier runs of its kind, of the same base, on this host or as jobs like it.

What a kind has to do is told by its plan and by its record alike: tokens of a training or a loss, prompts, rows. The
run that had about as much to do tells most, as each also does what takes the same time always: it reads what it takes,
loads a model, stores what it made. How many passes a search takes follows from what it finds, so that the quickest and
the slowest one are told. Nothing tells of an import or a dataset before it is read.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions import KINDS
from dem_build.digest import canonical
from dem_build.estimate.due import DueAction, on_gpu
from dem_build.slots import known_slots
from dem_build.workload import inputs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from dem_build.digest import JSON, Digest
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record
    from dem_build.workload import Workload

    Likeness: TypeAlias = tuple[str, bytes]

LONGEST = 1e10
"""Seconds, 300 years: no run took longer, whatever its record says, and of nothing is it said."""


@dataclass(frozen=True)
class Span:
    """Seconds that an action is expected to take: from the least to the most, which may be one number."""

    least: float
    most: float


class Times:
    """What the records of a store say of times, of one base where actions run now.

    Args:
        records: All records.
        weights: Digest of the base's weights; None where it is not imported yet, and then nothing is known.
        machine: The machine file's keys: how what is due will run.
    """

    def __init__(self, records: Iterable[Record], weights: Digest | None, machine: Machine) -> None:
        found = [r for r in records if _work(r.kind)] if weights is not None else []
        # What reads a composed model reads other weights: it counts as its base, and so does what is made of it.
        composed = [r for r in found if "weights" in r.outputs]
        models: set[Digest | None] = set()
        more: set[Digest | None] = {weights}
        while more - models:
            models |= more
            more = {r.outputs["weights"].digest for r in composed if _takes(r, models)}
        runs: dict[Likeness, list[_Run]] = {}
        threads = _threads(machine)
        for record in found:
            load = _work(record.kind)
            run = (
                _run(record, load)
                if load and _runs_like(record, machine, threads) and _takes(record, models)
                else None
            )
            if load and run:
                likeness = _likeness(record.kind, load, record.preimage.get("params"))
                runs.setdefault(likeness, []).append(run)
        self._alike = {likeness: _Alike(alike) for likeness, alike in runs.items()}

    def of(self, verdict: Verdict, plan: Plan) -> Span | None:
        """How long an action will take; None where its like never ran, or what it has to do is not known yet."""
        load = verdict.action.kind.work
        if load is None:
            return None
        alike = self._alike.get(_likeness(verdict.action.kind.name, load, verdict.action.params))
        work = load.planned(DueAction(verdict.action, plan)) if alike else None
        if alike is None or not work:
            return None
        # By pace, not by seconds: runs of other sizes tell too, and the nearest in size shares the fixed part. A line
        # through two runs would tell that part as well, and of two runs of about one size anything.
        paces = alike.paces if load.varies else [alike.nearest(work).pace]
        span = Span(min(paces) * work, max(paces) * work)
        return span if span.most <= LONGEST else None


@dataclass(frozen=True)
class _Run:
    """A recorded run: what it did, in its kind's units, in how many seconds, and when."""

    did: float
    took: float
    finished: str

    @property
    def pace(self) -> float:
        """Seconds for one unit."""
        return self.took / self.did


class _Alike:
    """Runs that tell of each other: of one kind, with the same of what must be the same."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        all_paces = [run.pace for run in runs]
        self.paces = (min(all_paces), max(all_paces))
        newest = {run.did: run for run in sorted(runs, key=lambda run: run.finished)}
        self._newest = [newest[did] for did in sorted(newest)]

    def nearest(self, work: float) -> _Run:
        """The run with about as much to do as `work`, by their ratio; of several, the newest."""
        above = bisect_right(self._newest, work, key=lambda run: run.did)
        beside = self._newest[max(above - 1, 0) : above + 1]
        return max(beside, key=lambda run: (-abs(math.log(run.did / work)), run.finished))


def _work(kind: str) -> Workload | None:
    return KINDS[kind].work if kind in KINDS else None


def _likeness(kind: str, load: Workload, params: JSON) -> Likeness:
    """What is the same for runs that tell of each other."""
    said = params if isinstance(params, Mapping) else {}
    return kind, canonical([said.get(name) for name in load.same])


def _run(record: Record, load: Workload) -> _Run | None:
    """What a record says of its run; None where that is nothing.

    All its time counts, and a model is loaded in it. Of a run that went on from a checkpoint that is the last part
    alone, where its seconds on the device are of all parts.
    """
    # Of several GPUs, the seconds of all.
    devices = record.count("ranks") or 1 if record.noted("nccl") else 1
    took = max(record.amount("seconds") or 0.0, (record.amount("device_seconds") or 0.0) / devices)
    did = load.recorded(record)
    return _Run(did, took, str(record.noted("finished"))) if 0 < took <= LONGEST and did else None


def _threads(machine: Machine) -> int | None:
    """CPU threads that an action has where they set its pace; None on a GPU, in jobs and where nothing can run."""
    if machine.engine != "local" or on_gpu(machine):
        return None
    return next((slot.threads for slot in known_slots(machine)), None)


def _runs_like(record: Record, machine: Machine, threads: int | None) -> bool:
    """Whether it ran where actions run by a machine file, this host or a job of the engine; on a GPU as they would.

    On a CPU with as many threads: how much longer an action takes with half of them depends on the action.
    """
    if machine.engine != "local":
        if not str(record.noted("job") or "").startswith(f"{machine.engine} "):
            return False
    elif record.noted("host") != os.uname().nodename or _paced_otherwise(record, threads):
        return False
    # Of another number of ranks it tells nothing of this one: how much faster several are depends on what links them.
    if KINDS[record.kind].trains and (record.count("ranks") or 1) != machine.ranks(gpu=on_gpu(machine)):
        return False
    device = record.noted("device")
    if not KINDS[record.kind].device or not isinstance(device, str):
        return True
    return device.startswith("cpu") != on_gpu(machine)


def _paced_otherwise(record: Record, threads: int | None) -> bool:
    return threads is not None and record.count("threads") not in (None, threads)


def _takes(record: Record, models: set[Digest | None]) -> bool:
    return any(
        i.get("of") in ("base/weights", "model/weights") and str(i.get("sha256")) in models
        for i in inputs_of(record)
    )
