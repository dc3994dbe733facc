"""The estimates of a plan: one for each action that is due."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.action import BASE
from dem_build.actions import KINDS
from dem_build.data.sources import part_of
from dem_build.estimate.due import (
    DueAction,
    config_of,
    due,
    judged_length,
    judged_repeat,
    matching_of,
    on_gpu,
    search_length,
    shape_of,
    training_of,
)
from dem_build.estimate.memory import (
    BYTES,
    PROCESS,
    VECTOR_BYTES,
    Judging,
    gram_disk,
    held_by_search,
    search_memory,
    training_disk,
)
from dem_build.estimate.times import Times
from dem_build.lock import hub
from dem_build.workload import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from dem_build.action import Action, SourceFile
    from dem_build.digest import JSON
    from dem_build.estimate.memory import Shape
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Store


@dataclass(frozen=True)
class Estimate:
    """What one action is expected to take; None is not known.

    Attributes:
        kind: Its family: `finetune`, `evaluate` …
        memory: Bytes on the device, or of the process on a CPU; sequences as long as they may be.
        tokens: Tokens that it reads, of a training or a held-out loss.
        seconds: Time, at the pace of its like, of the same base on this host; of a search, as the slowest one.
        least_seconds: Of a search, as the quickest one; else as `seconds`, and None where that is.
        disk: Bytes of a model, a vector or Gram matrices that it writes.
        scratch: Bytes of its checkpoints, which go when it is done.
        download: Bytes of its files that are on a hub and not here, of a dataset with parts.
        rows: Most rows that a dataset with parts trains on, as its caps and the hub's cards say.
        subsets: How many sub-datasets it has of which that is known.
    """

    name: str
    kind: str
    memory: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    least_seconds: float | None = None
    disk: int | None = None
    scratch: int | None = None
    download: int | None = None
    rows: int | None = None
    subsets: int | None = None

    @property
    def writes_model(self) -> bool:
        """Whether it writes a model or a vector."""
        return any(kind.writes_model for kind in KINDS.values() if kind.family == self.kind)

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return asdict(self)


def estimates(plan: Plan, store: Store, machine: Machine) -> list[Estimate]:
    """An estimate for each action that is due, or may be; where nothing is, nothing is read.

    Args:
        plan: What is due; what is the same work twice is estimated once.
        store: Its records tell of the data, and of earlier runs.
        machine: How this machine is to be used.
    """
    found = due(plan)
    if not found:
        return []
    base = plan.verdicts.get("base")
    weights = base.record.outputs["weights"].digest if base and base.record else None
    estimator, times = (
        Estimator.of_plan(plan, store, machine),
        Times(store.records.all(plan.records.values()), weights, machine),
    )
    return [estimator.of(verdict, times) for verdict in found]


@dataclass(frozen=True)
class Estimator:
    """Estimates of a plan whose base is known as far as it is."""

    plan: Plan
    machine: Machine
    shape: Shape | None
    config: Mapping[str, JSON]

    @classmethod
    def of_plan(cls, plan: Plan, store: Store, machine: Machine, base_action: str = BASE) -> Self:
        """That of a plan, or of what it has of one base: that is read as far as it is here."""
        base = plan.verdicts.get(base_action)
        shape, config = (shape_of(base, store), config_of(base, store)) if base else (None, None)
        return cls(plan, machine, shape, config or {})

    def held(self, verdict: Verdict) -> int:
        """The bytes that an action needs; of what evaluates the model alone, of what has none or is not known 0."""
        found, kind = self._memory(verdict), verdict.action.kind
        dtype = BYTES.get(str(verdict.action.params.get("dtype")))
        if found is not None or self.shape is None or not kind.device or dtype is None:
            return found or 0
        return dtype * self.shape.parameters + (0 if on_gpu(self.machine) else PROCESS)

    def of(self, verdict: Verdict, times: Times) -> Estimate:
        """The estimate of one action, with the times of earlier runs."""
        action, span = verdict.action, times.of(verdict, self.plan)
        load = action.kind.work
        tokens = load.planned(DueAction(action, self.plan)) if load and load.tokens else None
        return Estimate(
            action.name,
            action.kind.family,
            self._memory(verdict),
            int(tokens) if tokens is not None else None,
            span.most if span else None,
            span.least if span else None,
            self._written(action),
            training_disk(self.shape, action.params)[1] if self.shape and action.kind.trains else None,
            *_parts_of(action),
        )

    def _memory(self, verdict: Verdict) -> int | None:
        if self.shape is None:
            return None
        if verdict.action.kind.trains:
            training = training_of(verdict, self.plan)
            return training.memory(
                self.shape, training.params, self.machine, training.length, gpu=on_gpu(self.machine)
            )
        if verdict.action.kind.streams:
            return self._matching_memory(verdict.action, self.shape)
        if verdict.action.kind.slopes is not None:
            return self._search_memory(verdict.action, self.shape)
        if any(taken.of == SAMPLE for taken in verdict.action.takes):
            return self._weighing_memory(verdict.action, self.shape)
        return None

    def _matching_memory(self, action: Action, shape: Shape) -> int:
        matching = matching_of(action, self.plan)
        return matching.memory(shape, matching.rows, gpu=on_gpu(self.machine))

    def _weighing_memory(self, action: Action, shape: Shape) -> int:
        """The memory of matchings that are measured, one after another: a matching, or a whole model and its passes."""
        length, params = judged_length(action, self.plan) or 0, action.params
        measured = self._judging_memory(
            shape, Judging(length, params["max_samples"], width=BYTES[params["dtype"]])
        )
        return max(self._matching_memory(action, shape), measured)

    def _search_memory(self, action: Action, shape: Shape) -> int | None:
        length, slopes = search_length(action, self.plan), action.kind.slopes
        if length is None or slopes is None:
            return None
        judging = Judging(
            length,
            action.params.get("max_samples", 1),  # what has none takes one row at a time
            slopes(action),
            gradients=action.kind.gradients,
            repeats=judged_repeat(action, self.plan),
        )
        return self._judging_memory(shape, judging)

    def _judging_memory(self, shape: Shape, judging: Judging) -> int:
        if on_gpu(self.machine):
            return search_memory(shape, self.machine, judging)
        return held_by_search(shape, self.machine, judging) + PROCESS

    def _written(self, action: Action) -> int | None:
        """The bytes of the model, vector or Gram matrices that an action writes; None for none, or if nobody knows."""
        if self.shape is not None and "gram" in action.kind.outputs:
            return gram_disk(self.shape)
        if self.shape is None or not action.kind.writes_model:
            return None
        params = action.params
        if action.kind.trains:
            return training_disk(self.shape, params)[0]
        dtype = params.get("vector_dtype") or params.get("dtype")
        made = [t.at.action for t in action.takes if t.at.output == "weights"]
        if dtype is None and made:  # a choice's, as all have it that are chosen from
            return self._written(self.plan.verdicts[made[0]].action)
        if dtype is None:  # an import's, as the files have it
            dtype = self.config.get("dtype") or self.config.get("torch_dtype")
        size = VECTOR_BYTES.get(dtype) if isinstance(dtype, str) else None
        return None if size is None else round(size * self.shape.parameters)


def _parts_of(action: Action) -> tuple[int | None, int | None, int | None]:
    """Bytes to download, most training rows, and sub-datasets of an action that prepares a dataset with parts.

    Rows are those that the hub's cards tell, or fewer where `max_samples` says so; None where neither tells of all of
    them. Sub-datasets that a column tells apart are known by nobody before rows are read: then they are None, too.
    """
    rules = action.params.get("parts")
    if not rules:
        return None, None, None
    missing = [s for s in action.sources if s.hub is not None and hub.here(s) is None]
    groups: dict[tuple[str, str], list[SourceFile]] = defaultdict(list)
    for source in action.sources:
        if (found := part_of(source)) is not None:
            groups[found].append(source)
    by_column = any("by" in rule for rule in rules.values())
    rows = {at: _rows(files, rules[at[0]]) for at, files in groups.items()}
    known = [count for count in rows.values() if count is not None]
    total = sum(known) if len(known) == len(rows) else None
    if total is not None and action.params.get("max_samples") is not None:
        total = min(total, action.params["max_samples"])
    return sum(s.size or 0 for s in missing), total, None if by_column else len(groups)


def _rows(files: Iterable[SourceFile], rule: dict[str, object]) -> int | None:
    """Most training rows of a sub-dataset, or of the file that holds several."""
    told = [source.rows for source in files]
    count = None if None in told else sum(n for n in told if n is not None)
    most = rule.get("max_samples") if "by" not in rule else None
    if not isinstance(most, int):
        return count
    return most if count is None else min(most, count)
