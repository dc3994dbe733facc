"""What actions cost when they ran: time on a device, and tokens. A result that is cached cost what it cost then.

A device-second is one second in which an action has one device: a GPU, or the CPU with so many threads. Seconds on
different devices are never added up: an hour of a GPU is no hour of a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.action import BASE, COMPOSED, MODEL, OF_A_VECTOR, TUNE
from dem_build.report.quantities import duration
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Outcome
    from dem_build.graph import Graph
    from dem_build.report.inputs import BuildRecords
    from dem_build.report.mixing_cost import MixingCost
    from dem_build.store import Record

CPU = "cpu"
UNKNOWN = "a device that was not recorded"
Seconds = dict[str, float]
"""Device → seconds."""


class Part(StrEnum):
    """What an action is for."""

    SHARED = "shared"
    MODEL = "model"
    EVALUATION = "evaluation"
    REFERENCES = "references"
    BASELINES = "baselines"
    ANALYSIS = "analysis"


DEM = (Part.MODEL,)
"""What the composed model cost. Base, data and a test of the model any way to one needs; all else compares."""


@dataclass(frozen=True)
class Cost:
    """What one action cost when it ran.

    Attributes:
        device: A GPU's name, or the CPU's with its threads.
        seconds: Time that it had the device, over all interruptions; None where its record says nothing.
        wall: Whether that is the wall time of its last run instead, as an older record has no other.
        tokens: Tokens that a model read, each as often as it was read; None where nothing counts them.
        trained_tokens: Those that counted in a training's loss.
        same_as: An action before it whose result is its own too: it ran once, and this one cost nothing.
        passes: Of a search, over all its rows: in forward passes, of which a backward one takes two.
        began_from_others: Whether it began with measurements of earlier actions, whose cost is not in its own.
    """

    part: Part
    device: str
    seconds: float | None
    wall: bool = False
    tokens: float | None = None
    trained_tokens: float | None = None
    same_as: str | None = None
    passes: float | None = None
    began_from_others: bool = False

    def document(self) -> dict[str, JSON]:
        """The same as JSON, without what is not known."""
        found: dict[str, JSON] = {
            "part": self.part.value,
            "device": self.device,
            "device_seconds": None if self.seconds is None else round(self.seconds, 3),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "same_as": self.same_as,
            "began_from_others": self.began_from_others or None,
        }
        return {n: v for n, v in found.items() if v is not None} | ({"wall": True} if self.wall else {})


@dataclass(frozen=True)
class BuildCost:
    """What a build cost.

    Attributes:
        costs: Action → its cost, for those that are recorded.
        mixing: DEM against mixing; None where there is nothing to mix, or no seconds to compare.
        notes: What the numbers leave out, and why there are none.
    """

    costs: Mapping[str, Cost] = field(default_factory=dict)
    mixing: MixingCost | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        parts = {part.value: rounded(by_device(self.costs, (part,))) for part in Part}
        return {
            "devices": rounded(by_device(self.costs)),
            "parts": {part: devices for part, devices in parts.items() if devices},
            "actions": {name: cost.document() for name, cost in self.costs.items()},
            **({"mixing": self.mixing.document()} if self.mixing else {}),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Spent:
    """What one call of a build spent itself.

    Attributes:
        devices: Wall time of the actions that it ran, by the device that they ran on.
        unfinished: Wall time of the actions that failed or were stopped.
    """

    devices: Mapping[str, float]
    unfinished: float = 0.0

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        return {"devices": rounded(self.devices), "unfinished": round(self.unfinished, 3)}


def read_costs(build: BuildRecords) -> dict[str, Cost]:
    """The cost of every action that is recorded, in the graph's order."""
    present = [(action, build.records[action.name]) for action in build.graph if action.name in build.records]
    cpus = dict(_cpus(record for _, record in present))
    first: dict[str, str] = {}
    return {
        action.name: _cost(action, record, build.graph, cpus, first.setdefault(record.key, action.name))
        for action, record in present
    }


def part_of(action: Action, graph: Graph) -> Part:
    """What an action is for."""
    if action.evaluation is not None:
        model = action.evaluation.model
        if model in graph.baselines:
            return Part.BASELINES
        return Part.EVALUATION if model == COMPOSED else Part.REFERENCES
    prefix, _, name = action.name.partition(":")
    if name and name in graph.baselines:
        return Part.BASELINES
    if action.name == BASE or (prefix == "data" and name not in graph.stages):
        return Part.SHARED
    # What was made to choose from is what the chosen one cost.
    makes = action.name in (graph.origin, graph.composing, MODEL, TUNE)
    if (
        makes
        or prefix in ("vector", "choice", *OF_A_VECTOR)
        or name in graph.stages
        or name in graph.candidates
    ):
        return Part.MODEL
    return Part.REFERENCES if prefix == MODEL else Part.ANALYSIS


def by_device(costs: Mapping[str, Cost], parts: Collection[Part] = tuple(Part)) -> Seconds:
    """The seconds of all actions of some parts, each result once, by device."""
    found: Seconds = {}
    for cost in costs.values():
        # What several actions share ran once, and is paid once.
        if cost.part in parts and cost.same_as is None and cost.seconds is not None:
            found[cost.device] = found.get(cost.device, 0.0) + cost.seconds
    return found


def on_devices(seconds: Mapping[str, float]) -> str:
    """Seconds by device for people: `2h 10m on NVIDIA H100 and 45s on cpu (x86_64), 8 threads`."""
    return " and ".join(f"{duration(s)} on {device}" for device, s in seconds.items())


def rounded(numbers: Mapping[str, float | None]) -> dict[str, JSON]:
    """Those that are known, to a thousandth, for documents."""
    return {name: round(number, 3) for name, number in numbers.items() if number is not None}


def spent(outcome: Outcome) -> Spent:
    """What a build spent itself: nothing on what was cached."""
    devices: Seconds = {}
    unfinished = 0.0
    cpus = dict(_cpus(outcome.records.values()))
    for result in outcome.results.values():
        if result.record is None:
            unfinished += result.seconds
        elif result.seconds:
            device = _device(result.action, result.record, cpus)
            devices[device] = devices.get(device, 0.0) + result.seconds
    return Spent(devices, unfinished)


def _cost(action: Action, record: Record, graph: Graph, cpus: Mapping[str, str], first: str) -> Cost:
    counted, wall = record.amount("device_seconds"), record.amount("seconds")
    return Cost(
        part_of(action, graph),
        _device(action, record, cpus),
        wall if counted is None else counted,
        counted is None and wall is not None,
        record.amount("tokens", "seen"),
        record.amount("tokens", "trained"),
        None if first == action.name else first,
        record.amount("forward_equivalents"),
        bool(record.count("earlier_passes")),
    )


def _device(action: Action, record: Record, cpus: Mapping[str, str]) -> str:
    """What a record says it ran on."""
    device, threads = record.noted("device"), record.amount("threads")
    # An older record of a kind that runs no model says only on which host: it was its CPU.
    if not isinstance(device, str):
        if action.kind.device:
            return UNKNOWN
        device = cpus.get(str(record.noted("host")), CPU)
    if not device.startswith(CPU) or not threads:
        return device
    return f"{device}, {counted(round(threads), 'thread')}"


def _cpus(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """Host → name of its CPU, as some record has it."""
    for record in records:
        device = record.noted("device")
        if isinstance(device, str) and device.startswith(CPU):
            yield str(record.noted("host")), device
