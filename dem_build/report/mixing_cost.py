"""What the model cost against what data mixing costs: the mixtures of the recipe, and one dataset more.

In seconds on the device that trained the vectors:

    D      = Σ t(vector i) + t(search of ω) + t(composing)                            DEM, with trunk and healing
    X_j    = t(training of mixture j) + t(mixing its rows, composing) + t(choosing)   a mixture
    ratio  = Σ X_j / D        break-even = D / mean X_j
    one dataset added or replaced: t(data) + t(vector) + t(search) + t(composing), or t(data) + X without comparing it

j goes over the mixtures that the recipe names, each result once; one that was not trained here counts as the mean of
those that were. Where the recipe names none, X is one mixture that is projected. Each is charged with what choosing it
takes. Test evaluations choose nothing, and are on neither side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build.action import BASE, HEAL, MODEL, OF_A_VECTOR, TRUNK, TUNE
from dem_build.report.cost import DEM, BuildCost, by_device, rounded
from dem_build.report.quantities import count, duration
from dem_build.wording import first_of, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.graph import Graph
    from dem_build.report.cost import Cost

FEWEST = 2
"""Datasets that there are to mix."""
AS_MANY = 0.01
"""Share by which two numbers of tokens may differ and be called the same."""
STAGES = {TRUNK: "the trunk", HEAL: "healing"}
MOST_LISTED = 6
"""Names in a sentence."""


@dataclass(frozen=True)
class RouteCost:
    """Seconds that one way to a model takes, and the tokens that its trainings read.

    Attributes:
        tokens: Of all trainings; None where they were not counted.
        training: All trainings.
        choosing: The search of ω, or of a mixture's scale; a pass that compares mixtures.
        making: Composing, extracting vectors from elsewhere, and mixing rows.
        projected: How many of all these seconds nobody measured.
    """

    tokens: float | None
    training: float
    choosing: float = 0.0
    making: float = 0.0
    projected: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.choosing + self.making

    def times(self, share: float) -> RouteCost:
        """So many of it."""
        tokens = None if self.tokens is None else share * self.tokens
        seconds = (self.training, self.choosing, self.making, self.projected)
        return RouteCost(tokens, *(share * s for s in seconds))

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        return rounded({**asdict(self), "total": self.total})


@dataclass(frozen=True)
class EditCost:
    """One dataset added, or replaced by another of its size: the same actions run.

    Attributes:
        own: Seconds of its data and its vector.
        rest: Of the search and composing.
        mixture: Of its data, and of a whole new mixture with shares that are known.
    """

    own: float
    rest: float
    mixture: float

    @property
    def total(self) -> float:
        """Seconds that DEM takes."""
        return self.own + self.rest

    @property
    def ratio(self) -> float:
        """How many times as much a new mixture takes."""
        return self.mixture / self.total

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        return rounded({**asdict(self), "total": self.total}) | {"ratio": self.ratio}


@dataclass(frozen=True)
class MixingCost:
    """DEM and mixing on one device.

    Attributes:
        device: Whose seconds are compared.
        dem: What the composed model took.
        each: Mixture → what it took, of those that were trained on the device.
        one: What one mixture takes: the mean of different ones that were trained, else projected.
        count: How many different ones the recipe names, at least one.
        trained: How many different ones were trained on the device.
        searched: Whether ω were searched.
        read_by: What DEM's trainings are of, for people.
        edits: Dataset → what it costs to add or to replace it.
    """

    device: str
    dem: RouteCost
    each: Mapping[str, RouteCost]
    one: RouteCost
    count: int
    trained: int
    searched: bool
    read_by: str = "the vectors"
    edits: Mapping[str, EditCost] = field(default_factory=dict)

    @property
    def all(self) -> RouteCost:
        """All mixtures."""
        # Of the mean mixture a part may be projected itself: a pass to choose by, of those that were trained.
        lacking = (self.count - self.trained) if self.each else 0
        measured = self.one.projected * (self.count - lacking)
        return replace(self.one.times(self.count), projected=measured + lacking * self.one.total)

    @property
    def ratio(self) -> float:
        """How many times as much as DEM all mixtures take."""
        return self.times_dem(self.all)

    @property
    def break_even(self) -> float:
        """Number of mixtures that take as much as DEM."""
        return self.dem.total / self.one.total

    def times_dem(self, way: RouteCost) -> float:
        """How many times as much as DEM something takes."""
        return way.total / self.dem.total

    def sentences(self, winner: str | None = None) -> Iterator[str]:
        """What it comes to, for people.

        Args:
            winner: The model that was better than the composed one, if there was one.
        """
        yield self.headline(winner)
        yield self.one_told
        edits = [edit.total for edit in self.edits.values()]
        ratios = [edit.ratio for edit in self.edits.values()]
        projected = "" if self.each else ", projected,"
        yield (
            f"One dataset added or replaced: {_between(edits, duration)}; a new mixture{projected} takes "
            f"{_between(ratios, times)} times as much."
        )

    def headline(self, winner: str | None = None) -> str:
        """What it comes to, in a sentence or two; see `sentences`."""
        took, of = duration(self.all.total), f"{times(self.ratio)} times as much"
        said = f"DEM took {duration(self.dem.total)} on {self.device}; "
        if not self.each:
            return f"{said}{self.named} would take {took}, projected, {of}."
        won = winner if winner in self.each else None
        if self.count == 1 == len(self.each):
            return f"{said}the mixture {self.named}{', which won,' if won else ''} took {took}, {of}."
        lacking = self.count - self.trained
        told = f"would take {took}, {lacking} of them projected," if lacking else f"took {took},"
        all_of_them = f"{said}{'the ' if self.count > 1 else ''}{self.named} {told} {of}."
        if won is None:
            return all_of_them
        took, of = duration(self.each[won].total), f"{times(self.times_dem(self.each[won]))} times as much"
        return f"{all_of_them} The mixture that won, {won}, took {took}, {of}."

    @property
    def named(self) -> str:
        """The mixtures for people: `mix`, `one mixture`, `3 mixtures`."""
        if self.count > 1:
            return f"{self.count} mixtures"
        return next(iter(self.each)) if len(self.each) == 1 else "one mixture"

    @property
    def one_told(self) -> str:
        """How long one mixture takes and how that is known, for people."""
        known = (
            f"{'the mean, ' if self.trained > 1 else ''}measured ({', '.join(self.each)})"
            if self.each
            else "projected: as long as the vectors' trainings took, and nothing to mix its rows"
        )
        vectors, mixture = self.dem.tokens, self.one.tokens
        if vectors is None or mixture is None:
            read = "tokens that were not counted" if self.each else "as many tokens as the vectors"
        elif abs(mixture - vectors) <= AS_MANY * vectors or count(mixture) == count(vectors):
            read = f"as many tokens as {self.read_by}, {count(vectors)}"
        else:
            read = f"{count(mixture)} tokens, where {self.read_by} read {count(vectors)}"
        return (
            f"One mixture on {read}: {duration(self.one.total)}, {known}. "
            f"DEM took as much as {self.break_even:.2f} of them."
        )

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        return {
            "device": self.device,
            "omega_searched": self.searched,
            "dem": self.dem.document(),
            "mixtures": self.count,
            "mixtures_measured": self.trained,
            "each": {name: way.document() for name, way in self.each.items()},
            "mixture": self.one.document(),
            "all": self.all.document(),
            "ratio": self.ratio,
            "ratio_of_one": self.times_dem(self.one),
            "break_even": self.break_even,
            "datasets": {name: edit.document() for name, edit in self.edits.items()},
        }


def build_cost(graph: Graph, costs: Mapping[str, Cost]) -> BuildCost:
    """What a build cost, given the costs of the actions that are recorded."""
    datasets = [a.name.removeprefix("vector:") for a in graph if a.kind.name == "finetune"]
    datasets = [name for name in datasets if name not in graph.mixed]
    notes = list(_notes(graph, costs))
    if len(datasets) < FEWEST:
        return BuildCost(costs, None, tuple(notes))
    comparison = _Comparison(graph, costs, datasets)
    if refusal := comparison.refusal():
        told = f"There is no comparison with mixing: {refusal}.{comparison.tokens_told()}"
        return BuildCost(costs, None, (*notes, told))
    return BuildCost(costs, comparison.mixing(), (*notes, *comparison.notes()))


class _Comparison:
    """DEM and mixing on the device that trained the vectors.

    Attributes:
        graph: The recipe's graph.
        costs: Action → its cost.
        datasets: Those that have a vector of their own.
    """

    def __init__(self, graph: Graph, costs: Mapping[str, Cost], datasets: list[str]) -> None:
        self.graph, self.costs, self.datasets = graph, costs, datasets
        self.vectors = [f"vector:{name}" for name in datasets]
        self.stages = [f"vector:{name}" for name in graph.stages]
        self.trainings = [*self.vectors, *self.stages]
        # A part of the graph may be asked for.
        made_of = graph.only([MODEL]) if MODEL in graph.actions else graph
        # Mixing takes the preparations of rows that vectors have of their own, too.
        shared = {BASE, *self.trainings, *(a.name for a in graph if a.kind.name == "prepare")}
        takes = [a for a in made_of if a.name not in shared]
        self.searches = [a.name for a in takes if a.kind.name == "tune"]
        self.choosing = [*self.searches, *(a.name for a in takes if a.kind.name == "loss")]
        self.making = [a.name for a in takes if a.kind.name not in ("tune", "loss")]
        # What is made anew where a dataset is added: neither a trunk, nor what is of another vector alone.
        kept = {f"data:{TRUNK}", graph.origin} | {
            a.name for a in takes if a.kind.name in ("extract", *OF_A_VECTOR)
        }
        self.remade = [name for name in self.making if name not in kept]
        self.remade += [f"vector:{HEAL}"] if HEAL in graph.stages else []
        first = costs.get(self.vectors[0])
        self.device = first.device if first else ""
        self.mixtures = [name for name, method in graph.baselines.items() if method == "mixing"]
        self.here = [name for name in self.mixtures if self._seconds([f"vector:{name}"])]
        self.trained = len(self._different(f"vector:{name}" for name in self.here))
        self.count = max(self.trained + len(self.mixtures) - len(self.here), 1)

    def refusal(self) -> str | None:
        """Why nothing can be compared, in words that end a sentence; None where it can."""
        needed = [*self.trainings, *self.searches]
        if missing := [name for name in (*needed, MODEL) if name not in self.costs]:
            return f"{', '.join(missing)} did not run yet"
        if untimed := [name for name in needed if self.costs[name].seconds is None]:
            return f"how long {', '.join(untimed)} took is not recorded"
        devices = dict.fromkeys(self.costs[name].device for name in needed)
        if len(devices) > 1:
            return f"the vectors and the search of ω ran on several devices ({'; '.join(devices)})"
        return None if self._seconds(self.vectors) else "the trainings took no time"

    def mixing(self) -> MixingCost:
        """The comparison; `refusal` has found nothing against it."""
        training, search = self._seconds(self.trainings), self._seconds(self.choosing)
        dem = RouteCost(self._tokens(self.trainings), training, search, self._seconds(self.making))
        chosen = self.count > 1
        each = {name: self._mixture([name], chosen=chosen) for name in self.here}
        one, alone = (self._one(chosen=among) for among in (chosen, False))
        edits, remade = {}, self._seconds(self.remade)
        for name in self.datasets:  # another one in its place; vectors from elsewhere stay as they are
            data, *own = (self._seconds([f"{of}:{name}"]) for of in ("data", "vector", *OF_A_VECTOR))
            edits[name] = EditCost(data + sum(own), search + remade, data + alone.total)
        return MixingCost(
            self.device,
            dem,
            each,
            one,
            self.count,
            self.trained,
            searched=bool(self.searches),
            read_by=together(["the vectors", *(STAGES[stage] for stage in self.graph.stages)]),
            edits=edits,
        )

    def tokens_told(self) -> str:
        """What can be said without seconds: the tokens of the trainings; nothing where these are unknown."""
        tokens = self._tokens(self.vectors)
        if not tokens:
            return ""
        read = {name: self._tokens([f"vector:{name}"]) for name in (*self.graph.stages, *self.mixtures)}
        mixtures = "".join(f", {name} {count(n)}" for name, n in read.items() if n)
        return f" The vectors read {count(tokens)} tokens{mixtures}."

    def notes(self) -> Iterator[str]:
        """What is not in the numbers, though it is a part of one side or of both."""
        if any(self.costs[name].began_from_others for name in self._searches()):
            yield (
                "A search began with passes of earlier searches, which the comparison is without: from nothing "
                "it takes longer."
            )
        if TRUNK in self.graph.stages:
            groups = self.graph.actions[f"data:{TRUNK}"].groups
            yield (
                f"Of the trunk's datasets ({first_of(groups, MOST_LISTED)}) none is replaced so cheaply: that trains "
                "the trunk and every vector anew."
            )
        made = {name: self.costs[name] for name in self.making if name in self.costs}
        for device, seconds in by_device(made).items():
            if device != self.device:
                yield f"Composing took {duration(seconds)} on {device}, which is not in the comparison."
        for name in (*(f"vector:{m}" for m in self.mixtures), *self._searches()):
            cost = self.costs.get(name)
            if cost and cost.seconds is not None and cost.device != self.device:
                yield f"{name} ran on {cost.device}: its seconds are not compared."

    def _one(self, *, chosen: bool) -> RouteCost:
        """One mixture: the mean of those that were trained here, else as long as the vectors."""
        if self.here:
            return self._mixture(self.here, chosen=chosen).times(1 / self.trained)
        # Projected: on as many tokens as the vectors' trainings read, at their speed, which is their seconds.
        choosing = self._pass() if chosen else 0.0
        training = self._seconds(self.vectors)
        return RouteCost(self._tokens(self.vectors), training, choosing, projected=training + choosing)

    def _mixture(self, names: list[str], *, chosen: bool) -> RouteCost:
        """Some mixtures, each result once; `chosen`: with what it takes to choose from several."""
        vectors = [f"vector:{name}" for name in names]
        making = self._seconds([*(f"data:{name}" for name in names), *(f"{MODEL}:{name}" for name in names)])
        # Where there are others to choose from, one pass over the rows that ω is chosen on tells which is the best.
        compared = [f"{MODEL}:{name}" for name in names if chosen and not self._was_validated(name)]
        passes = self._pass() * len(self._different(compared))
        # Where ω are given, nobody knows what finding them took: no search is charged on either side.
        searches = self._seconds(f"{TUNE}:{name}" for name in names) if self.searches else 0.0
        return RouteCost(self._tokens(vectors), self._seconds(vectors), searches + passes, making, passes)

    def _was_validated(self, mixture: str) -> bool:
        """Whether a mixture was measured on validation rows: by the search of its scale, or its training."""
        training = self.graph.actions[f"vector:{mixture}"]
        validated = any(taken.of == "data/validation" for taken in training.takes)
        return validated or f"{TUNE}:{mixture}" in self.graph.actions

    def _pass(self) -> float:
        """The seconds of one pass over the rows that ω is chosen on; 0 where no search tells."""
        search = self.costs[TUNE] if TUNE in self.searches else None
        if search is None or not search.passes:
            return 0.0
        return (search.seconds or 0.0) / max(search.passes, 1.0)

    def _searches(self) -> list[str]:
        """The searches that are charged and recorded."""
        found = [*self.searches, *(f"{TUNE}:{name}" for name in self.mixtures if self.searches)]
        return [name for name in found if name in self.costs]

    def _tokens(self, trainings: list[str]) -> float | None:
        """The tokens that trainings read, each once; None where one's are not recorded."""
        tokens = [cost.tokens for cost in self._different(trainings).values()]
        known = [t for t in tokens if t is not None]
        return sum(known) if len(known) == len(tokens) > 0 else None

    def _seconds(self, names: Iterable[str]) -> float:
        """The seconds on this device, of each result once."""
        costs = self._different(names).values()
        return sum(c.seconds or 0.0 for c in costs if c.device == self.device)

    def _different(self, names: Iterable[str]) -> dict[str, Cost]:
        """The costs of those that are recorded, each result once, by the first action that has it."""
        return {self.costs[n].same_as or n: self.costs[n] for n in names if n in self.costs}


def _notes(graph: Graph, costs: Mapping[str, Cost]) -> Iterator[str]:
    """What no total has, whoever is compared."""
    if names := [name for name, cost in costs.items() if cost.seconds is None]:
        yield f"How long these took is not recorded, and no total has them: {first_of(names, MOST_LISTED)}."
    if names := [name for name, cost in costs.items() if cost.wall]:
        yield f"Recorded before device-seconds were, and counted with their wall time: {first_of(names, MOST_LISTED)}."
    if names := [a.name.removeprefix("vector:") for a in graph if a.kind.name == "extract"]:
        yield (
            f"Taken from elsewhere, with a training that is unknown and not counted: {first_of(names, MOST_LISTED)}. "
            "A mixture would need their data."
        )
    if len(by_device(costs, DEM)) > 1:
        yield "The build ran on several devices, whose seconds are not added up."


def _between(values: list[float], shown: Callable[[float], str]) -> str:
    """The least and the greatest of some values, for people."""
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low} to {high}"


def times(ratio: float) -> str:
    """A ratio for people: `0.97`, `2.50`, `12`."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"
