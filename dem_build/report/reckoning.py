"""The costs of a build's actions → what DEM and mixing took, and what cannot be said of it; see `report.mixing`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.action import MODEL, TUNE
from dem_build.report.cost import DEM, Part, by_device, rounded
from dem_build.report.mixing import Edit, Mixing, Way
from dem_build.report.quantities import count, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.graph import Graph
    from dem_build.report.cost import Cost

__all__ = ["Reckoning", "reckon"]

FEWEST = 2
"""Datasets that there are to mix."""


@dataclass(frozen=True)
class Reckoning:
    """What a build cost.

    Attributes:
        costs: Action → its cost, for those that are recorded.
        mixing: DEM against mixing; None where there is nothing to mix, or no seconds to compare.
        notes: What the numbers leave out, and why there are none.
    """

    costs: Mapping[str, Cost] = field(default_factory=dict)
    mixing: Mixing | None = None
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        parts = {part.value: rounded(by_device(self.costs, (part,))) for part in Part}
        return {
            "devices": rounded(by_device(self.costs)),
            "parts": {part: devices for part, devices in parts.items() if devices},
            "actions": {name: cost.document() for name, cost in self.costs.items()},
            **({"mixing": self.mixing.document()} if self.mixing else {}),
            "notes": list(self.notes),
        }


def reckon(graph: Graph, costs: Mapping[str, Cost]) -> Reckoning:
    """Return what a build cost, given the costs of the actions that are recorded."""
    datasets = [a.name.removeprefix("vector:") for a in graph if a.kind.name == "finetune"]
    datasets = [name for name in datasets if name not in graph.baselines]
    notes = [*_untimed(costs), *_elsewhere(graph), *_devices(costs)]
    if len(datasets) < FEWEST:
        return Reckoning(costs, None, tuple(notes))
    against = _Against(graph, costs, datasets)
    refusal = against.refusal()
    if refusal:
        told = f"There is no comparison with mixing: {refusal}.{against.tokens_told()}"
        return Reckoning(costs, None, (*notes, told))
    return Reckoning(costs, against.mixing(), (*notes, *against.notes()))


class _Against:
    """DEM and mixing on the device that trained the vectors.

    Attributes:
        graph: The recipe's graph.
        costs: Action → its cost.
        datasets: Those that have a vector of their own.
    """

    def __init__(self, graph: Graph, costs: Mapping[str, Cost], datasets: list[str]) -> None:
        self.graph, self.costs, self.datasets = graph, costs, datasets
        self.vectors = [f"vector:{name}" for name in datasets]
        self.searches = [TUNE] if TUNE in graph.actions else []
        self.making = [MODEL, *(a.name for a in graph if a.kind.name == "extract")]
        first = costs.get(self.vectors[0])
        self.device = first.device if first else ""
        self.mixtures = [name for name, method in graph.baselines.items() if method == "mixing"]
        self.here = [name for name in self.mixtures if self._seconds([f"vector:{name}"])]
        self.trained = len(self._different(f"vector:{name}" for name in self.here))
        self.count = max(self.trained + len(self.mixtures) - len(self.here), 1)

    def refusal(self) -> str | None:
        """Return why nothing can be compared, in words that end a sentence; None where it can."""
        needed = [*self.vectors, *self.searches]
        if missing := [name for name in (*needed, MODEL) if name not in self.costs]:
            return f"{', '.join(missing)} did not run yet"
        if untimed := [name for name in needed if self.costs[name].seconds is None]:
            return f"how long {', '.join(untimed)} took is not recorded"
        devices = dict.fromkeys(self.costs[name].device for name in needed)
        if len(devices) > 1:
            return f"the vectors and the search of ω ran on several devices ({'; '.join(devices)})"
        return None if self._seconds(self.vectors) else "the trainings took no time"

    def mixing(self) -> Mixing:
        """Return the comparison; `refusal` has found nothing against it."""
        training, search = self._seconds(self.vectors), self._seconds(self.searches)
        dem = Way(self._tokens(self.vectors), training, search, self._seconds(self.making))
        chosen = self.count > 1
        each = {name: self._mixture([name], chosen=chosen) for name in self.here}
        one, alone = (self._one(dem, chosen=among) for among in (chosen, False))
        edits = {name: self._edit(name, search, alone) for name in self.datasets}
        return Mixing(
            self.device, dem, each, one, self.count, self.trained, searched=bool(self.searches), edits=edits
        )

    def tokens_told(self) -> str:
        """Return what can be said without seconds: the tokens of the trainings; nothing where these are unknown."""
        tokens = self._tokens(self.vectors)
        if not tokens:
            return ""
        read = {name: self._tokens([f"vector:{name}"]) for name in self.mixtures}
        mixtures = "".join(f", {name} {count(n)}" for name, n in read.items() if n)
        return f" The vectors read {count(tokens)} tokens{mixtures}."

    def notes(self) -> Iterator[str]:
        """Yield what is not in the numbers, though it is a part of one side or of both."""
        if any(self.costs[name].began_from_others for name in self._searches()):
            yield (
                "A search began with passes of earlier searches, which the comparison is without: from nothing "
                "it takes longer."
            )
        made = {name: self.costs[name] for name in self.making if name in self.costs}
        for device, seconds in by_device(made).items():
            if device != self.device:
                yield f"Composing took {duration(seconds)} on {device}, which is not in the comparison."
        for name in (*(f"vector:{m}" for m in self.mixtures), *self._searches()):
            cost = self.costs.get(name)
            if cost and cost.seconds is not None and cost.device != self.device:
                yield f"{name} ran on {cost.device}: its seconds are not compared."

    def _one(self, dem: Way, *, chosen: bool) -> Way:
        """Return what one mixture takes: the mean of those that were trained here, else as long as the vectors."""
        if self.here:
            return self._mixture(self.here, chosen=chosen).times(1 / self.trained)
        choosing = self._pass() if chosen else 0.0
        return Way(dem.tokens, dem.training, choosing, projected=dem.training + choosing)

    def _mixture(self, names: list[str], *, chosen: bool) -> Way:
        """Return what some mixtures took, each result once; `chosen`: with what it takes to choose from several."""
        vectors = [f"vector:{name}" for name in names]
        making = self._seconds([*(f"data:{name}" for name in names), *(f"{MODEL}:{name}" for name in names)])
        compared = [f"{MODEL}:{name}" for name in names if chosen and not self._judged(name)]
        passes = self._pass() * len(self._different(compared))
        searches = self._seconds(f"{TUNE}:{name}" for name in names) if self.searches else 0.0
        return Way(self._tokens(vectors), self._seconds(vectors), searches + passes, making, passes)

    def _judged(self, mixture: str) -> bool:
        """Return whether a mixture was measured on validation rows: by the search of its scale, or its training."""
        training = self.graph.actions[f"vector:{mixture}"]
        validated = any(taken.of == "data/validation" for taken in training.takes)
        return validated or f"{TUNE}:{mixture}" in self.graph.actions

    def _pass(self) -> float:
        """Return the seconds of one pass over the rows that ω is chosen on; 0 where no search tells."""
        search = self.costs[TUNE] if self.searches else None
        if search is None or not search.passes:
            return 0.0
        return (search.seconds or 0.0) / max(search.passes, 1.0)

    def _edit(self, name: str, search: float, mixture: Way) -> Edit:
        """Return what another dataset in place of one takes; vectors from elsewhere stay as they are."""
        data, vector = (self._seconds([f"{of}:{name}"]) for of in ("data", "vector"))
        return Edit(data + vector, search + self._seconds([MODEL]), data + mixture.total)

    def _searches(self) -> list[str]:
        """Return the searches that are charged and recorded."""
        found = [*self.searches, *(f"{TUNE}:{name}" for name in self.mixtures if self.searches)]
        return [name for name in found if name in self.costs]

    def _tokens(self, trainings: list[str]) -> float | None:
        """Return the tokens that trainings read, each once; None where one's are not recorded."""
        tokens = [cost.tokens for cost in self._different(trainings).values()]
        known = [t for t in tokens if t is not None]
        return sum(known) if len(known) == len(tokens) > 0 else None

    def _seconds(self, names: Iterable[str]) -> float:
        """Return the seconds on this device, of each result once."""
        costs = self._different(names).values()
        return sum(c.seconds or 0.0 for c in costs if c.device == self.device)

    def _different(self, names: Iterable[str]) -> dict[str, Cost]:
        """Return the costs of those that are recorded, each result once, by the first action that has it."""
        return {self.costs[n].same_as or n: self.costs[n] for n in names if n in self.costs}


def _untimed(costs: Mapping[str, Cost]) -> Iterator[str]:
    if names := [name for name, cost in costs.items() if cost.seconds is None]:
        yield f"How long these took is not recorded, and no total has them: {_listed(names)}."
    if names := [name for name, cost in costs.items() if cost.wall]:
        yield f"Recorded before device-seconds were, and counted with their wall time: {_listed(names)}."


def _elsewhere(graph: Graph) -> Iterator[str]:
    if names := [a.name.removeprefix("vector:") for a in graph if a.kind.name == "extract"]:
        yield (
            f"Taken from elsewhere, with a training that is unknown and not counted: {_listed(names)}. "
            "A mixture would need their data."
        )


def _devices(costs: Mapping[str, Cost]) -> Iterator[str]:
    if len(by_device(costs, DEM)) > 1:
        yield "The build ran on several devices, whose seconds are not added up."


def _listed(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
