"""How long what is due will take: by earlier runs of its kind, of the same base on this host.

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

from dem_build.digest import canonical
from dem_build.estimate.due import training_of
from dem_build.estimate.training import seen_tokens
from dem_build.hardware import gpus
from dem_build.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from dem_build.digest import JSON, Digest
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record

    Likeness: TypeAlias = tuple[str, bytes]

__all__ = ["Span", "Times", "planned_tokens"]

JUDGING = ("data/validation", "data/rows")
"""What searches and curves judge by, as a plan's tags say it."""
SEARCHES = ("tune", "ladder")
"""Kinds that take as many passes as what they find asks for."""
LONGEST = 1e10
"""Seconds, 300 years: no run took longer, whatever its record says, and of nothing is it said."""


@dataclass(frozen=True)
class Span:
    """Seconds that an action is expected to take: from the least to the most, which may be one number."""

    least: float
    most: float


class Times:
    """What the records of a store say of times, of one base on this host.

    Args:
        records: All records.
        weights: Digest of the base's weights; None where it is not imported yet, and then nothing is known.
    """

    def __init__(self, records: Iterable[Record], weights: Digest | None) -> None:
        found = [r for r in records if r.kind in MEASURES] if weights is not None else []
        composed = [r for r in found if r.kind == "compose" and _takes(r, {weights})]
        models = {weights, *(r.outputs["weights"].digest for r in composed if "weights" in r.outputs)}
        runs: dict[Likeness, list[_Run]] = {}
        for record in found:
            run = _run(record) if _is_from_here(record) and _takes(record, models) else None
            if run is not None:
                runs.setdefault(_likeness(record.kind, record.preimage.get("params")), []).append(run)
        self._alike = {likeness: _Alike(alike) for likeness, alike in runs.items()}

    def of(self, verdict: Verdict, plan: Plan) -> Span | None:
        """Return how long an action will take; None where its like never ran, or what it has to do is not known yet."""
        kind = verdict.action.kind
        alike = self._alike.get(_likeness(kind, verdict.action.params)) if kind in MEASURES else None
        work = MEASURES[kind].planned(verdict, plan) if alike else None
        if alike is None or not work:
            return None
        paces = alike.paces if kind in SEARCHES else [alike.nearest(work).pace]
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
    """Runs that tell of each other: of one kind, with the same of what must be the same.

    Args:
        runs: At least one.
    """

    def __init__(self, runs: Sequence[_Run]) -> None:
        all_paces = [run.pace for run in runs]
        self.paces = (min(all_paces), max(all_paces))
        newest = {run.did: run for run in sorted(runs, key=lambda run: run.finished)}
        self._newest = [newest[did] for did in sorted(newest)]

    def nearest(self, work: float) -> _Run:
        """Return the run with about as much to do as `work`, by their ratio; of several, the newest."""
        above = bisect_right(self._newest, work, key=lambda run: run.did)
        beside = self._newest[max(above - 1, 0) : above + 1]
        return max(beside, key=lambda run: (-abs(math.log(run.did / work)), run.finished))


@dataclass(frozen=True)
class _Measure:
    """What a kind has to do.

    Attributes:
        planned: How much an action has; None where that is not known yet.
        recorded: How much a recorded one had; None where it does not say.
        same: Parameters without which one tells nothing of another.
    """

    planned: Callable[[Verdict, Plan], float | None]
    recorded: Callable[[Record], float | None]
    same: tuple[str, ...] = ()


def planned_tokens(verdict: Verdict, plan: Plan) -> int | None:
    """Return the tokens that a training or a loss reads; None before its data are prepared, and for other kinds."""
    if verdict.action.kind == "finetune":
        training = training_of(verdict, plan)
        return seen_tokens(training.rows, training.params) if training.rows else None
    return (
        next(_splits(verdict, plan, ("data/rows",), "tokens"), None)
        if verdict.action.kind == "loss"
        else None
    )


def _splits(verdict: Verdict, plan: Plan, tags: tuple[str, ...], what: str) -> Iterator[int | None]:
    """Yield what the records of data say of each split that an action takes under some tags."""
    for taken in verdict.action.takes:
        if taken.of in tags:
            record = plan.verdicts[taken.edge.action].record
            yield None if record is None else record.count("splits", taken.edge.output, what)


def _prompts(verdict: Verdict, plan: Plan) -> int | None:
    wanted: JSON = verdict.action.params["prompts"]
    if isinstance(wanted, list):
        return len(wanted)
    there = next(_splits(verdict, plan, ("data/rows",), "prompts"), None)
    return None if there is None else min(wanted, there)


def _judging_rows(verdict: Verdict, plan: Plan) -> int | None:
    most = verdict.action.params["max_samples"]
    rows = list(_splits(verdict, plan, JUDGING, "rows"))
    return sum(min(n, most) for n in rows if n is not None) if None not in rows else None


def _rows_by_vectors(verdict: Verdict, plan: Plan) -> float | None:
    rows = _judging_rows(verdict, plan)
    return None if rows is None else rows * _vectors(verdict, plan)


def _vectors(verdict: Verdict, _: Plan) -> int:
    return len({taken.edge for taken in verdict.action.takes if taken.of == "delta"})


def _recorded_rows_by_vectors(record: Record) -> float | None:
    rows = record.count("rows")
    return None if rows is None else rows * _recorded_vectors(record)


def _recorded_vectors(record: Record) -> int:
    return len({str(i.get("sha256")) for i in _inputs(record) if i.get("of") == "delta"})


MEASURES = {
    "finetune": _Measure(planned_tokens, lambda r: r.count("tokens", "seen")),
    "extract": _Measure(lambda *_: 1, lambda _: 1, ("source", "vector_dtype")),
    "tune": _Measure(_rows_by_vectors, _recorded_rows_by_vectors, ("search", "granularity")),
    "compose": _Measure(lambda v, p: 1 + _vectors(v, p), lambda r: 1 + _recorded_vectors(r), ("dtype",)),
    "analysis": _Measure(_vectors, _recorded_vectors),
    "response": _Measure(_rows_by_vectors, _recorded_rows_by_vectors, ("omegas",)),
    "ladder": _Measure(_rows_by_vectors, _recorded_rows_by_vectors),
    "tsne": _Measure(_judging_rows, lambda r: r.count("rows"), ("dtype",)),
    "loss": _Measure(planned_tokens, lambda r: r.count("tokens", "seen"), ("dtype",)),
    "sample": _Measure(_prompts, lambda r: r.count("prompts"), ("max_new_tokens", "dtype")),
    "task": _Measure(
        lambda *_: 1,
        lambda _: 1,
        ("task", "num_fewshot", "limit", "apply_chat_template", "dtype"),
    ),
}
"""A kind → what it has to do. A task reads the same documents every time, whatever the model."""


def _likeness(kind: str, params: JSON) -> Likeness:
    """Return what is the same for runs that tell of each other."""
    said = params if isinstance(params, Mapping) else {}
    return kind, canonical([said.get(name) for name in MEASURES[kind].same])


def _run(record: Record) -> _Run | None:
    """Return what a record says of its run; None where that is nothing.

    All its time counts, and a model is loaded in it. Of a run that went on from a checkpoint that is the last part
    alone, where its seconds on the device are of all parts.
    """
    took = max(record.amount(name) or 0.0 for name in ("seconds", "device_seconds"))
    did = MEASURES[record.kind].recorded(record)
    return _Run(did, took, str(record.noted("finished"))) if 0 < took <= LONGEST and did else None


def _is_from_here(record: Record) -> bool:
    """Return whether it ran on this host, on a GPU where there is one now and else on the CPU."""
    if record.noted("host") != os.uname().nodename:
        return False
    device = record.noted("device")
    if not KINDS[record.kind].device or not isinstance(device, str):
        return True
    return device.startswith("cpu") != bool(gpus())


def _takes(record: Record, models: set[Digest | None]) -> bool:
    return any(
        i.get("of") in ("base/weights", "model/weights") and str(i.get("sha256")) in models
        for i in _inputs(record)
    )


def _inputs(record: Record) -> Iterator[dict[str, JSON]]:
    """Yield the inputs of a record, those in groups too; one of another version of dem may say them otherwise."""
    groups = record.preimage.get("groups")
    places = [record.preimage, *(groups if isinstance(groups, list) else ())]
    for place in places:
        inputs = place.get("inputs") if isinstance(place, dict) else None
        yield from (i for i in inputs if isinstance(i, dict)) if isinstance(inputs, list) else ()
