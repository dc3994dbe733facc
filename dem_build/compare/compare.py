"""Two sides → what is the same, what changed and why, what it did to ω and to every metric, and what it costs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import METHODS
from dem_build.compare.causes import find_reasons
from dem_build.compare.keys import Standing, match_keys
from dem_build.compare.metrics import compare_metrics
from dem_build.compare.sides import nodes
from dem_build.json_text import finite
from dem_build.report.cost import by_device, rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.compare.causes import CauseOfChange
    from dem_build.compare.keys import Keys, Names
    from dem_build.compare.metrics import MetricChange
    from dem_build.compare.sides import Side
    from dem_build.digest import JSON
    from dem_build.report.cost import Seconds
    from dem_build.report.gates import GateResult


@dataclass(frozen=True)
class OmegaChange:
    """A vector's ω on both sides; None where there is no such vector, or it is not found yet.

    `was` is the vector's name on the first side, where that is another one.
    """

    vector: str
    before: float | None
    after: float | None
    was: str | None = None


@dataclass(frozen=True)
class GateChange:
    """A gate on both sides; None where that side has none."""

    task: str
    metric: str
    before: GateResult | None
    after: GateResult | None

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        told = [None if g is None else _gate(g) for g in (self.before, self.after)]
        return {"task": self.task, "metric": self.metric, "before": told[0], "after": told[1]}


@dataclass(frozen=True)
class SideCost:
    """What a side costs.

    Attributes:
        recorded: Device → seconds of all that is recorded.
        own: The same of what the other side has not; nothing where keys are not known.
        due: Actions that are not recorded.
        expected: Seconds that they are expected to take, as far as anybody knows.
        unknown: Of how many of them nobody knows.
    """

    recorded: Seconds
    own: Seconds
    due: int
    expected: float
    unknown: int

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        return {
            "recorded": rounded(self.recorded),
            "own": rounded(self.own),
            "due": self.due,
            "expected_seconds": round(self.expected, 3),
            "unknown": self.unknown,
        }


@dataclass(frozen=True)
class SideBySide:
    """Two sides, side by side.

    Attributes:
        before: What people call the first side.
        after: What they call the second.
        keys: Their actions, matched.
        reasons: Why actions differ, by cause.
        omega: ω of every vector, as the second side has them; then those that are gone. None where an ω means another
            thing on each side, as their ways to compose are others.
    """

    before: str
    after: str
    keys: Keys
    reasons: tuple[CauseOfChange, ...]
    omega: tuple[OmegaChange, ...]
    metrics: tuple[MetricChange, ...]
    costs: tuple[SideCost, SideCost]
    gates: tuple[GateChange, ...]

    @property
    def same(self) -> bool:
        """Whether both sides ask for the same work; of published models alone, whether their results are the same."""
        if self.keys.changes:
            return not self.keys.of(Standing.CHANGED, Standing.NEW, Standing.GONE)
        omega = all(one.before == one.after for one in self.omega)
        return omega and all(m.before == m.after for m in self.metrics)

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        costs = [cost.document() for cost in self.costs]
        return {
            "before": self.before,
            "after": self.after,
            "same": self.same,
            "renamed": dict(self.keys.names.renamed),
            "actions": [change.document() for change in self.keys.changes],
            "reasons": [asdict(reason) for reason in self.reasons],
            "omega": [asdict(one) for one in self.omega],
            "metrics": [one.document() for one in self.metrics],
            "cost": {"before": costs[0], "after": costs[1]},
            "gates": [gate.document() for gate in self.gates],
        }


def compare(before: Side, after: Side) -> SideBySide:
    """Compare two sides.

    Raises:
        StoreError: What a side recorded is not what it should be.
    """
    sides, found = (before, after), (nodes(before), nodes(after))
    if not (before.keyed and after.keyed):  # then there is nothing to match the other side's keys with
        found = {}, {}
    keys = match_keys(*found, built=after.build.records)
    return SideBySide(
        before.name,
        after.name,
        keys,
        find_reasons(keys, *found, sides),
        _omega(before, after, keys.names),
        compare_metrics(sides, found, keys.names),
        _costs(sides, keys),
        _gates(before.gates, after.gates, keys.names),
    )


def _omega(before: Side, after: Side, names: Names) -> tuple[OmegaChange, ...]:
    meanings = {METHODS[side.build.graph.method].omega for side in (before, after)}
    if len(meanings) > 1:
        return ()
    called = {names.one(name): name for name in _vectors(before)}
    found = []
    for name in dict.fromkeys((*_vectors(after), *called)):
        was = called.get(name)
        old = before.results.omega.get(was) if was is not None else None
        found.append(OmegaChange(name, old, after.results.omega.get(name), None if was == name else was))
    return tuple(found)


def _vectors(side: Side) -> list[str]:
    """The vectors of a side's model: also those whose ω is not found yet."""
    model = side.build.graph.actions.get(side.build.graph.composing)
    taken = model.takes if model else ()
    named = [t.at.action.removeprefix("vector:") for t in taken if t.of == "delta"]
    return list(dict.fromkeys((*named, *side.results.omega)))


def _costs(sides: tuple[Side, Side], keys: Keys) -> tuple[SideCost, SideCost]:
    shared = (Standing.SAME, Standing.RENAMED)
    after = {change.name for change in keys.of(*shared)}
    before = {change.was or change.name for change in keys.of(*shared)}
    if not keys.changes:
        return _cost(sides[0], None), _cost(sides[1], None)
    return _cost(sides[0], before), _cost(sides[1], after)


def _cost(side: Side, shared: set[str] | None) -> SideCost:
    costs = side.results.cost.costs
    own = {name: cost for name, cost in costs.items() if shared is not None and name not in shared}
    known = [seconds for seconds in side.due.values() if seconds is not None]
    return SideCost(
        by_device(costs), by_device(own), len(side.due), math.fsum(known), len(side.due) - len(known)
    )


def _gates(before: Sequence[GateResult], after: Sequence[GateResult], names: Names) -> tuple[GateChange, ...]:
    """Pair gates by task and metric: the first of a side with the first of the other, and so on."""
    left: dict[tuple[str, str], list[GateResult]] = {}
    for gate in before:
        left.setdefault((names.task(gate.task), gate.metric), []).append(gate)
    found = []
    for gate in after:
        waiting = left.get((gate.task, gate.metric), [])
        found.append(GateChange(gate.task, gate.metric, waiting.pop(0) if waiting else None, gate))
    found += [GateChange(t, m, gate, None) for (t, m), gates in left.items() for gate in gates]
    return tuple(found)


def _gate(gate: GateResult) -> dict[str, JSON]:
    value = finite(gate.value)
    return {"value": value, "passed": gate.passed, "why": gate.why}
