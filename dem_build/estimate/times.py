"""How long what is due will take: by earlier runs of its kind, of the same base on this host.

What a kind has to do is told by its plan and by its record alike: tokens of a training or a loss, prompts, rows. The
run that had about as much to do tells most, as each also does what takes the same time always: it loads a model. How
many passes a search takes follows from what it finds, so that the quickest and the slowest one are told. Nothing tells
of an import or a dataset before it is read.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.estimate.due import training_of
from dem_build.estimate.training import seen_tokens
from dem_build.json_text import quantity
from dem_build.kinds import KINDS
from dem_build.room import gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dem_build.digest import JSON, Digest
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record

__all__ = ["Span", "Times", "planned_tokens"]

JUDGING = ("data/validation", "data/rows")
"""What searches and curves judge by, as a plan's tags say it."""
SEARCHES = ("tune", "ladder")
"""Kinds that take as many passes as what they find asks for."""


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
        self._records: dict[str, list[Record]] = {}
        for record in found:
            if _is_from_here(record) and _takes(record, models):
                self._records.setdefault(record.kind, []).append(record)

    def of(self, verdict: Verdict, plan: Plan) -> Span | None:
        """Return how long an action will take; None where its like never ran, or what it has to do is not known yet."""
        measure = MEASURES.get(verdict.action.kind)
        work = measure.planned(verdict, plan) if measure else None
        if measure is None or not work:
            return None
        alike = [r for r in self._records.get(verdict.action.kind, ()) if measure.is_alike(r, verdict)]
        runs = [run for record in alike if (run := _run(record, measure)) is not None]
        if verdict.action.kind not in SEARCHES:
            runs = sorted(runs, key=lambda run: (-abs(math.log(run.did / work)), run.finished))[-1:]
        found = [seconds for run in runs if (seconds := quantity(run.took / run.did * work)) is not None]
        return Span(min(found), max(found)) if found else None


@dataclass(frozen=True)
class _Run:
    """A recorded run: what it did, in its kind's units, in how many seconds, and when."""

    did: float
    took: float
    finished: str


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

    def is_alike(self, record: Record, verdict: Verdict) -> bool:
        """Return whether a record tells of an action."""
        params = record.preimage.get("params")
        wanted = verdict.action.params
        return isinstance(params, dict) and all(params.get(n) == wanted.get(n) for n in self.same)


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


def _run(record: Record, measure: _Measure) -> _Run | None:
    """Return what a record says of its run; None where that is nothing.

    Of what runs no model all time counts: writing what it made is most of it.
    """
    took = record.amount("device_seconds" if KINDS[record.kind].device else "seconds")
    did = measure.recorded(record)
    return _Run(did, took, str(record.noted("finished"))) if took and did else None


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
        i.get("of") in ("base/weights", "model/weights") and i.get("sha256") in models
        for i in _inputs(record)
    )


def _inputs(record: Record) -> Iterator[dict[str, JSON]]:
    """Yield the inputs of a record, those in groups too; one of another version of dem may say them otherwise."""
    groups = record.preimage.get("groups")
    places = [record.preimage, *(groups if isinstance(groups, list) else ())]
    for place in places:
        inputs = place.get("inputs") if isinstance(place, dict) else None
        yield from (i for i in inputs if isinstance(i, dict)) if isinstance(inputs, list) else ()
