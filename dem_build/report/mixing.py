"""What the model cost against what data mixing costs: at equal tokens, as the best of m, and when one dataset changes.

With n datasets, whose vectors' trainings read T tokens together, in seconds on the device that trained them:

    D      = Σ t(vector i) + t(search of ω) + t(composing) + t(evaluating)      DEM, n trainings
    X      = t(training of one mixture on T tokens) + t(its rows, composing, evaluating)
    M(m)   = m X                                                                the best of m mixtures
    ratio  = M(m) / D          saving = 1 - D / M(m)          break-even m = D / X
    one dataset added or replaced: t(data) + t(vector) + t(search) + t(composing) + t(evaluating), or t(data) + X

The argument is that of the paper (arXiv 2406.15570): weights of a mixture are found by training mixtures, as many as
are tried, while ω are found after n trainings by evaluating alone. Its own factor (11 times cheaper) is of its models
and its search, and nothing here is taken from it.

X is measured where a mixture without a length of its own ran on the device; each such mixture counts, as their mean.
Else the training is projected: T tokens at the speed of the mixtures that ran, or, where none did, of the vectors, and
with nothing for its rows. A projection leaves out that long rows beside short ones make padding.

What favours mixing, so that DEM is not flattered: every m costs no search for the learning rate and no search of its
scale α; a mixture that was not evaluated takes as long as the composed model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.report.quantities import count, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.digest import JSON

__all__ = ["Basis", "Edit", "Mixing", "Way", "times"]


AS_MANY = 0.01
"""Share by which two numbers of tokens may differ and be called the same."""


class Basis(StrEnum):
    """Where the cost of a mixture is from."""

    MEASURED = "measured"
    OF_MIXTURES = "projected from the mixtures' speed"
    OF_VECTORS = "projected from the vectors' speed"


@dataclass(frozen=True)
class Way:
    """Seconds that one way to a model takes, and the tokens that its trainings read.

    Attributes:
        tokens: Of all trainings; None where they were not counted.
        training: All trainings.
        search: Of ω.
        making: Composing, extracting vectors from elsewhere, and mixing rows.
        evaluating: Of the model.
    """

    tokens: float | None
    training: float
    search: float = 0.0
    making: float = 0.0
    evaluating: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.search + self.making + self.evaluating

    def times(self, mixtures: int) -> Way:
        """Return so many of it."""
        tokens = None if self.tokens is None else mixtures * self.tokens
        return Way(
            tokens,
            *(mixtures * s for s in (self.training, self.search, self.making, self.evaluating)),
        )

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return _rounded({**asdict(self), "total": self.total})


@dataclass(frozen=True)
class Edit:
    """One dataset added, or replaced by another of its size: the same actions run.

    Attributes:
        own: Seconds of its data and its vector.
        rest: Of the search, composing and evaluating.
        mixture: Of its data, and of a whole new mixture.
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
        """How many times as much a new mixture costs."""
        return self.mixture / self.total

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        more = {"ratio": self.ratio, "saving": 1 - 1 / self.ratio}
        return _rounded({**asdict(self), "total": self.total}) | more


@dataclass(frozen=True)
class Mixing:
    """DEM and mixing on one device.

    Attributes:
        device: Whose seconds are compared.
        dem: What the composed model took.
        mixture: What one mixture takes on as many tokens.
        basis: Where that is from.
        of: Baselines that it was measured of, or whose speed it was projected from.
        tried: m, how many mixtures one would try: as many as the recipe has, at least one a dataset. Shares of n
            datasets have n - 1 degrees of freedom, and fewer than n points do not even show a slope along each.
        edits: Dataset → what it costs to add or to replace it.
    """

    device: str
    dem: Way
    mixture: Way
    basis: Basis
    of: tuple[str, ...]
    tried: int
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def projected(self) -> bool:
        """Whether the cost of a mixture was not measured."""
        return self.basis is not Basis.MEASURED

    @property
    def supposed(self) -> bool:
        """Whether the cost of the best of `tried` was not measured, as not so many ran."""
        return self.projected or len(self.of) < self.tried

    @property
    def best(self) -> Way:
        """The best of `tried` mixtures."""
        return self.mixture.times(self.tried)

    @property
    def break_even(self) -> float:
        """Number of mixtures that cost as much as DEM."""
        return self.dem.total / self.mixture.total

    @property
    def cheaper_from(self) -> int:
        """The least number of mixtures that cost more than DEM."""
        return math.floor(self.break_even) + 1

    def ratio(self, mixtures: int) -> float:
        """Return how many times as much the best of so many mixtures costs."""
        return mixtures / self.break_even

    def saving(self, mixtures: int) -> float:
        """Return the share of that cost which DEM saves; below 0 where DEM costs more."""
        return 1 - self.break_even / mixtures

    def sentences(self) -> Iterator[str]:
        """Yield what it comes to, for people."""
        yield self.headline
        yield (
            f"One mixture on {self.length}: {duration(self.mixture.total)}, {self.told}; "
            f"break-even at {self.break_even:.2f} mixtures, DEM is the cheaper from {self.cheaper_from} on."
        )
        edits = [edit.total for edit in self.edits.values()]
        ratios = [edit.ratio for edit in self.edits.values()]
        yield (
            f"One dataset added or replaced: {_between(edits, duration)}, and a new mixture "
            f"{_between(ratios, times)} times as much."
        )

    @property
    def headline(self) -> str:
        """What it comes to, in a sentence."""
        dem, best = duration(self.dem.total), duration(self.best.total)
        cost = f"would cost {best}, projected," if self.supposed else f"cost {best},"
        return (
            f"DEM cost {dem} on {self.device}; the best of {self.tried} mixtures {cost} "
            f"{times(self.ratio(self.tried))} times as much: {self.verdict(self.tried)}."
        )

    @property
    def told(self) -> str:
        """Where the cost of a mixture is from, for people."""
        return f"{self.basis.value} ({', '.join(self.of)})" if self.of else self.basis.value

    def verdict(self, mixtures: int) -> str:
        """Return who saves how much against the best of so many mixtures, for people."""
        saving = self.saving(mixtures)
        return f"DEM saves {saving:.0%}" if saving >= 0 else f"DEM costs {-saving:.0%} more"

    @property
    def length(self) -> str:
        """How many tokens a mixture reads, beside the vectors, for people."""
        if self.dem.tokens is None:
            return "as many tokens"
        vectors, mixture = self.dem.tokens, self.mixture.tokens
        if mixture is None or abs(mixture - vectors) <= AS_MANY * vectors:
            return f"as many tokens as the vectors, {count(vectors)}"
        return f"{count(mixture)} tokens, planned as many as the vectors, which read {count(vectors)}"

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return {
            "device": self.device,
            "basis": self.basis.value,
            "projected": self.projected,
            "of": list(self.of),
            "dem": self.dem.document(),
            "mixture": self.mixture.document(),
            "mixtures": self.tried,
            "best": self.best.document(),
            "best_projected": self.supposed,
            "ratio": self.ratio(self.tried),
            "saving": self.saving(self.tried),
            "ratio_of_one": self.ratio(1),
            "saving_of_one": self.saving(1),
            "break_even": self.break_even,
            "cheaper_from": self.cheaper_from,
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
