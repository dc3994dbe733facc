"""The costs of a build's actions → what DEM and mixing took, and what cannot be said of it; see `report.mixing`."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from dem_build.graph.nodes import COMPOSED, MODEL, TUNE
from dem_build.report.cost import DEM, Part, by_device, rounded
from dem_build.report.mixing import Basis, Edit, Mixing, Way
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
    datasets = [a.name.removeprefix("vector:") for a in graph if a.kind == "finetune"]
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
        self.making = [MODEL, *(a.name for a in graph if a.kind == "extract")]
        first = costs.get(self.vectors[0])
        self.device = first.device if first else ""

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
        if not self._seconds(self.vectors):
            return "the trainings took no time"
        if self._measured() or self._tokens():
            return None
        return "the tokens of the trainings are not recorded, or there were none"

    def mixing(self) -> Mixing:
        """Return the comparison; `refusal` has found nothing against it."""
        dem, (basis, of, mixture) = self._dem(), self._mixture()
        edits = {name: self._edit(name, dem, mixture) for name in self.datasets}
        return Mixing(self.device, dem, mixture, basis, tuple(of), self._tried(), edits)

    def tokens_told(self) -> str:
        """Return what can be said without seconds: the tokens of the trainings; nothing where these are unknown."""
        tokens, tried = self._tokens(), self._tried()
        if not tokens:
            return ""
        return (
            f" The vectors read {count(tokens)} tokens, the best of {tried} mixtures {count(tried * tokens)}."
        )

    def _tried(self) -> int:
        return max(len(self.datasets), list(self.graph.baselines.values()).count("mixing"))

    def notes(self) -> Iterator[str]:
        """Yield what is not in the numbers, though it is a part of one side or of both."""
        if any(self.costs[name].began_from_others for name in self.searches):
            yield (
                "The search for ω began with passes of earlier searches, which the comparison is without: from nothing "
                "it takes longer."
            )
        made = {name: self.costs[name] for name in self.making if name in self.costs}
        for device, seconds in by_device(made).items():
            if device != self.device:
                yield f"Composing took {duration(seconds)} on {device}, which is not in the comparison."
        if self._evaluations(COMPOSED) and not self._evaluating(COMPOSED):
            yield f"Evaluations did not all run on {self.device}: the comparison is without them."
        others = [name for name in self._trained() if self.costs[f"vector:{name}"].device != self.device]
        for name in others:
            device = self.costs[f"vector:{name}"].device
            yield f"{name} was trained on {device}: its seconds are not compared."

    def _dem(self) -> Way:
        return Way(
            self._tokens(),
            self._seconds(self.vectors),
            self._seconds(self.searches),
            self._seconds(self.making),
            self._evaluating(COMPOSED) or 0.0,
        )

    def _mixture(self) -> tuple[Basis, list[str], Way]:
        """Return what one mixture takes on as many tokens, and where that is from."""
        evaluating = self._evaluating(COMPOSED) or 0.0
        if measured := self._measured():
            return Basis.MEASURED, measured, self._mean(measured)
        tokens = self._tokens() or 0.0
        if known := [name for name in self._here() if self.costs[f"vector:{name}"].tokens]:
            mean = self._mean(known)
            training = tokens * fmean(self._pace([f"vector:{name}"]) for name in known)
            way = Way(tokens, training, 0.0, mean.making, mean.evaluating)
            return Basis.OF_MIXTURES, known, way
        training = tokens * self._pace(self.vectors)
        return Basis.OF_VECTORS, [], Way(tokens, training, evaluating=evaluating)

    def _mean(self, mixtures: list[str]) -> Way:
        """Return the mean of some mixtures that ran; α is no part of plain mixing, and its search is not in it."""
        tokens = [self.costs[f"vector:{name}"].tokens for name in mixtures]
        counted = [t for t in tokens if t is not None]
        return Way(
            fmean(counted) if len(counted) == len(tokens) else None,
            fmean(self._seconds([f"vector:{name}"]) for name in mixtures),
            0.0,
            fmean(self._seconds([f"data:{name}", f"{MODEL}:{name}"]) for name in mixtures),
            fmean(self._evaluating_of(name) for name in mixtures),
        )

    def _edit(self, name: str, dem: Way, mixture: Way) -> Edit:
        """Return what another dataset in place of one takes; vectors from elsewhere stay as they are."""
        data, vector = (self._alone(f"{of}:{name}") for of in ("data", "vector"))
        composing = self._seconds([MODEL])
        return Edit(data + vector, dem.search + composing + dem.evaluating, data + mixture.total)

    def _trained(self) -> list[str]:
        """Return the mixtures whose training is recorded with its seconds."""
        found = [name for name, method in self.graph.baselines.items() if method == "mixing"]
        return [n for n in found if (cost := self.costs.get(f"vector:{n}")) and cost.seconds is not None]

    def _here(self) -> list[str]:
        """Return the mixtures that were trained on this device, and for more than no time."""
        return [n for n in self._trained() if self._seconds([f"vector:{n}"])]

    def _measured(self) -> list[str]:
        """Return those on as many tokens as the vectors together: without a length of their own."""
        return [n for n in self._here() if not self.graph.actions[f"data:{n}"].params]

    def _tokens(self) -> float | None:
        """Return the tokens that the vectors' trainings read, of each once; None where one's are not recorded."""
        costs = [self.costs.get(name) for name in self.vectors]
        tokens = [c.tokens if c else None for c in costs if c is None or c.same_as is None]
        known = [t for t in tokens if t is not None]
        return sum(known) if len(known) == len(tokens) else None

    def _pace(self, trainings: Iterable[str]) -> float:
        """Return the seconds that a token takes."""
        found = [c for name in trainings if (c := self.costs[name]).same_as is None]
        return sum(c.seconds or 0.0 for c in found) / (sum(c.tokens or 0.0 for c in found) or 1.0)

    def _evaluating_of(self, mixture: str) -> float:
        """Return the seconds of a mixture's evaluations: those of the composed model where they did not all run.

        Where those are not in the comparison, a mixture's are not either.
        """
        composed = self._evaluating(COMPOSED)
        whole = len(self._evaluations(mixture)) == len(self._evaluations(COMPOSED))
        own = self._evaluating(mixture) if whole and composed is not None else None
        return (composed or 0.0) if own is None else own

    def _evaluating(self, model: str) -> float | None:
        """Return the seconds of a model's evaluations; None where they did not all run here."""
        names = self._evaluations(model)
        here = all(n in self.costs and self._is_here(self.costs[n]) for n in names)
        return self._seconds(names) if names and here else None

    def _evaluations(self, model: str) -> list[str]:
        return [a.name for a in self.graph if a.evaluation is not None and a.evaluation.model == model]

    def _seconds(self, names: Iterable[str]) -> float:
        """Return the seconds on this device, of each result once."""
        found = [self.costs[name] for name in names if name in self.costs]
        return sum(c.seconds or 0.0 for c in found if self._is_here(c) and c.same_as is None)

    def _alone(self, name: str) -> float:
        cost = self.costs.get(name)
        return (cost.seconds or 0.0) if cost and self._is_here(cost) else 0.0

    def _is_here(self, cost: Cost) -> bool:
        return cost.device == self.device and cost.seconds is not None


def _untimed(costs: Mapping[str, Cost]) -> Iterator[str]:
    if names := [name for name, cost in costs.items() if cost.seconds is None]:
        yield f"How long these took is not recorded, and no total has them: {_listed(names)}."
    if names := [name for name, cost in costs.items() if cost.wall]:
        yield f"Recorded before device-seconds were, and counted with their wall time: {_listed(names)}."


def _elsewhere(graph: Graph) -> Iterator[str]:
    if names := [a.name.removeprefix("vector:") for a in graph if a.kind == "extract"]:
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
