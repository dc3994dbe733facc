"""The estimates of a plan: one for each training that is due."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build import hub, kinds
from dem_build.digest import of_json
from dem_build.errors import DemError
from dem_build.estimate.mixtures import mixed_rows, rows_of
from dem_build.estimate.shape import Shape
from dem_build.estimate.training import PROCESS, Rows, seen_tokens, training_disk, training_memory
from dem_build.json_text import parse_json, quantity
from dem_build.plan import Status, preimage_of
from dem_build.room import gpus
from dem_build.store import Output

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON, Digest
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record, Store

__all__ = ["Estimate", "Training", "estimates", "shape_of", "trainings"]


@dataclass(frozen=True)
class Estimate:
    """What one training is expected to take.

    Attributes:
        name: The action.
        memory: Bytes on the device, or of the process on a CPU; sequences as long as they may be.
        tokens: Tokens that it reads.
        seconds: Time, at the speed of earlier trainings of the same base on this host.
        disk: Bytes of the vector.
        scratch: Bytes of its checkpoints, which go when it is done.
    """

    name: str
    memory: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    disk: int | None = None
    scratch: int | None = None

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Training:
    """A training that is due, with what is known of it.

    Attributes:
        name: The action.
        params: Of the kind `finetune`.
        length: Most tokens of a sequence.
        rows: Its data; None before they are prepared.
    """

    name: str
    params: Mapping[str, JSON]
    length: int
    rows: Rows | None

    def memory(
        self, shape: Shape, params: Mapping[str, JSON], machine: Machine, length: int, *, gpu: bool
    ) -> int:
        """Return the bytes that it needs with these parameters and this length, which may be others than its own."""
        rows = self.rows
        trained = rows.trained_tokens / max(rows.tokens, 1) if rows else 1.0
        return training_memory(shape, params, machine, length, trained) + (0 if gpu else PROCESS)


def trainings(plan: Plan) -> list[Training]:
    """Return the trainings that are due, or may be; of several that are the same work, the first."""
    due = [v for v in plan.verdicts.values() if v.action.kind == "finetune" and v.status is not Status.HIT]
    found: dict[Digest, Verdict] = {}
    known: dict[str, Mapping[str, Output]] = {}
    for verdict in due:
        found.setdefault(_key(verdict, plan, known), verdict)
    return [_training(verdict, plan) for verdict in found.values()]


def _key(verdict: Verdict, plan: Plan, known: dict[str, Mapping[str, Output]]) -> Digest:
    """Return an action's key, or what is the same for the same work while an input of it is not known.

    Args:
        verdict: The action's.
        plan: Where its inputs are made.
        known: Action → its outputs, or where these are not known yet what stands for them; grows.
    """
    if verdict.key is not None:
        return verdict.key
    for name in verdict.action.upstream:
        if name not in known:
            known[name] = _outputs(plan.verdicts[name], plan, known)
    return kinds.key_of(preimage_of(verdict.action, known))


def _outputs(verdict: Verdict, plan: Plan, known: dict[str, Mapping[str, Output]]) -> Mapping[str, Output]:
    if verdict.record is not None:
        return verdict.record.outputs
    key = _key(verdict, plan, known)
    return {name: Output(of_json([key, name]), 0) for name in kinds.KINDS[verdict.action.kind].outputs}


def _training(verdict: Verdict, plan: Plan) -> Training:
    data = next(plan.verdicts[t.edge.action] for t in verdict.action.takes if t.of == "data/train")
    mixture = data.action.kind == "mix"
    rows = rows_of(data.record) if data.record is not None else None
    if mixture and data.record is None:
        rows = mixed_rows(data, plan)
    sources = [plan.verdicts[name] for name in data.action.upstream] if mixture else [data]
    length = max(source.action.params["max_length"] for source in sources)
    return Training(verdict.action.name, verdict.action.params, length, rows)


def estimates(plan: Plan, store: Store, machine: Machine) -> list[Estimate]:
    """Return an estimate for each training that is due, or may be; a plan without one reads nothing.

    Args:
        plan: What is due.
        store: Its records tell of the data, and of earlier trainings.
        machine: How this machine is to be used.
    """
    due = trainings(plan)
    if not due:
        return []
    base = plan.verdicts.get("base")
    shape = shape_of(base, store) if base else None
    weights = base.record.outputs["weights"].digest if base and base.record else None
    speed = _speed(store.records(), weights)
    return [_estimate(training, machine, shape, speed) for training in due]


def _estimate(training: Training, machine: Machine, shape: Shape | None, speed: float | None) -> Estimate:
    params = training.params
    tokens = seen_tokens(training.rows, params) if training.rows else None
    seconds = quantity(tokens / speed) if tokens and speed else None
    if shape is None:
        return Estimate(training.name, tokens=tokens, seconds=seconds)
    memory = training.memory(shape, params, machine, training.length, gpu=bool(gpus()))
    return Estimate(training.name, memory, tokens, seconds, *training_disk(shape, params))


def shape_of(base: Verdict, store: Store) -> Shape | None:
    """Return the base's shape: of its record, else of the config that it is imported from."""
    try:
        if base.record is not None:
            config = parse_json(store.read_bytes(base.record.outputs["config"]))
            return Shape.of(config, base.record.count("parameters"))
        sources = [source for source in base.action.sources if source.tag == "config.json"]
        paths = [hub.cached(s.hub) if s.hub is not None else s.path for s in sources]
        return Shape.of(parse_json(paths[0].read_text(encoding="utf-8"))) if paths and paths[0] else None
    except (OSError, ValueError, DemError):
        return None  # a build tells what is wrong with it; a plan goes on


def _speed(records: Iterable[Record], weights: Digest | None) -> float | None:
    """Return the tokens a second of the newest training of the same base on this host."""
    host = os.uname().nodename
    found = [
        record
        for record in records
        if weights and record.kind == "finetune" and record.noted("host") == host and _takes(record, weights)
    ]
    newest = max(found, key=lambda record: str(record.noted("finished")), default=None)
    if newest is None:
        return None
    seen, took = newest.count("tokens", "seen"), newest.amount("device_seconds")
    return seen / took if seen and took else None


def _takes(record: Record, weights: Digest) -> bool:
    """Return whether a training began with these weights; one of another version of dem may say it otherwise."""
    inputs = record.preimage.get("inputs")
    wanted = {"of": "base/weights", "sha256": weights}
    return isinstance(inputs, list) and any(
        isinstance(i, dict) and wanted.items() <= i.items() for i in inputs
    )
