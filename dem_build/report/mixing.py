"""What the model cost against what data mixing costs: the mixtures of the recipe, and one dataset more.

In seconds on the device that trained the vectors:

    D      = Σ t(vector i) + t(search of ω) + t(composing)                            DEM
    X_j    = t(training of mixture j) + t(mixing its rows, composing) + t(choosing)   a mixture
    ratio  = Σ X_j / D        break-even = D / mean X_j
    one dataset added or replaced: t(data) + t(vector) + t(search) + t(composing), or t(data) + X without comparing it

j goes over the mixtures that the recipe names, each result once. Where it names none, X is one mixture on as many
tokens as the vectors' trainings read, at their speed: their seconds. A mixture that is named and was not trained here
counts as the mean of those that were.

Each is charged with what choosing it takes. Where ω were searched, that is the search of a mixture's scale, or, where
there are others to choose from, one pass over the rows that ω is chosen on, unless its training was validated. Where ω
are given, nobody knows what finding them took, and no search is charged on either side. Test evaluations choose
nothing, and are on neither side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build.report.quantities import count, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.digest import JSON

__all__ = ["Edit", "Mixing", "Way", "times"]


AS_MANY = 0.01
"""Share by which two numbers of tokens may differ and be called the same."""


@dataclass(frozen=True)
class Way:
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

    def times(self, share: float) -> Way:
        """Return so many of it."""
        tokens = None if self.tokens is None else share * self.tokens
        seconds = (self.training, self.choosing, self.making, self.projected)
        return Way(tokens, *(share * s for s in seconds))

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return _rounded({**asdict(self), "total": self.total})


@dataclass(frozen=True)
class Edit:
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
        """Return it as JSON."""
        return _rounded({**asdict(self), "total": self.total}) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Mixing:
    """DEM and mixing on one device.

    Attributes:
        device: Whose seconds are compared.
        dem: What the composed model took.
        each: Mixture → what it took, of those that were trained on the device.
        one: What one mixture takes: the mean of different ones that were trained, else projected.
        count: How many different ones the recipe names, at least one.
        trained: How many different ones were trained on the device.
        searched: Whether ω were searched.
        edits: Dataset → what it costs to add or to replace it.
    """

    device: str
    dem: Way
    each: Mapping[str, Way]
    one: Way
    count: int
    trained: int
    searched: bool
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def all(self) -> Way:
        """All mixtures."""
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

    def times_dem(self, way: Way) -> float:
        """Return how many times as much as DEM something takes."""
        return way.total / self.dem.total

    def sentences(self, winner: str | None = None) -> Iterator[str]:
        """Yield what it comes to, for people.

        Args:
            winner: The model that was better than the composed one, if there was one.
        """
        yield self.headline(winner)
        yield f"One mixture on {self.length}: {self.told}. DEM took as much as {self.break_even:.2f} of them."
        edits = [edit.total for edit in self.edits.values()]
        ratios = [edit.ratio for edit in self.edits.values()]
        projected = "" if self.each else ", projected,"
        yield (
            f"One dataset added or replaced: {_between(edits, duration)}; a new mixture{projected} takes "
            f"{_between(ratios, times)} times as much."
        )

    def headline(self, winner: str | None = None) -> str:
        """Return what it comes to, in a sentence or two; see `sentences`."""
        took, of = duration(self.all.total), f"{times(self.ratio)} times as much"
        said = f"DEM took {duration(self.dem.total)} on {self.device}; "
        if not self.each:
            return f"{said}{self.named} would take {took}, projected, {of}."
        won = winner if winner in self.each else None
        if self.count == 1 == len(self.each):
            return f"{said}the mixture {self.named}{', which won,' if won else ''} took {took}, {of}."
        lacking = self.count - self.trained
        told = f"would take {took}, {lacking} of them projected," if lacking else f"took {took},"
        return f"{said}{'the ' if self.count > 1 else ''}{self.named} {told} {of}.{self._alone(won)}"

    def _alone(self, won: str | None) -> str:
        if won is None:
            return ""
        way = self.each[won]
        return f" The mixture that won, {won}, took {duration(way.total)}, {times(self.times_dem(way))} times as much."

    @property
    def named(self) -> str:
        """The mixtures for people: `mix`, `one mixture`, `3 mixtures`."""
        if self.count > 1:
            return f"{self.count} mixtures"
        return next(iter(self.each)) if len(self.each) == 1 else "one mixture"

    @property
    def told(self) -> str:
        """How long one mixture takes and how that is known, for people."""
        took = duration(self.one.total)
        if not self.each:
            return f"{took}, projected: as long as the vectors' trainings took, and nothing to mix its rows"
        return f"{took}, {'the mean, ' if self.trained > 1 else ''}measured ({', '.join(self.each)})"

    @property
    def length(self) -> str:
        """How many tokens a mixture reads, beside the vectors, for people."""
        vectors, mixture = self.dem.tokens, self.one.tokens
        if vectors is None or mixture is None:
            return "tokens that were not counted" if self.each else "as many tokens as the vectors"
        if abs(mixture - vectors) <= AS_MANY * vectors or count(mixture) == count(vectors):
            return f"as many tokens as the vectors, {count(vectors)}"
        return f"{count(mixture)} tokens, where the vectors read {count(vectors)}"

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
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


def _rounded(numbers: Mapping[str, float | None]) -> dict[str, JSON]:
    """Return those that are known, to a thousandth."""
    return {name: round(number, 3) for name, number in numbers.items() if number is not None}


def _between(values: list[float], shown: Callable[[float], str]) -> str:
    """Return the least and the greatest of some values, for people."""
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{low} to {high}"


def times(ratio: float) -> str:
    """Return a ratio for people: `0.97`, `2.50`, `12`."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"
