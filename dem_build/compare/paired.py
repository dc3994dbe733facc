"""Two models on the same rows: how much they differ, how sure that is, and how it is judged among many such figures.

Rows are paired by what tells them apart. All rows of one prompt, and so the same row several times, are one unit: what
they say of a model they say together, so each of them counts in the mean, and they count as one in its error. Where a
side has more copies of a row than the other, as many count as both have; of each, the mean over its copies is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.stats import FEW_ROWS, stderr_of_ratio

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

ALPHA = 0.05
"""The chance, over a whole table, of calling a change clear where nothing differs."""

FEW_DISCORDANT = 25
"""Fewer pairs that disagree are judged by McNemar's exact test: b + c < 25 is the usual bound below which nobody relies
on the distribution that larger samples come close to. The exact test is never too quick to see a difference, and
rather slow (Fagerland, Lydersen, Laake, BMC Med. Res. Methodol. 13:91, 2013)."""


class SignificanceTest(StrEnum):
    """How a p-value was come by."""

    PAIRED = "paired t"
    MCNEMAR = "McNemar, exact"
    UNPAIRED = "unpaired"


@dataclass(frozen=True)
class Observation:
    """What a model scored on one row.

    Attributes:
        row: What tells the row from others, on both sides alike.
        value: Its score, or the sum of them over what counts in it.
        weight: How much of it counts: tokens of a loss, 1 of a document.
        unit: What was sampled, of which there may be other rows: its prompt; None for the row itself.
    """

    row: Hashable
    value: float
    weight: int = 1
    unit: Hashable | None = None


@dataclass(frozen=True)
class Unit:
    """The rows of what was sampled, of a row its copies, on both sides.

    Attributes:
        before: The first side's sum over its rows.
        after: The second side's.
        weight: What counts in all of them.
        copies: How many rows there are.
    """

    before: float
    after: float
    weight: int
    copies: int = 1


@dataclass(frozen=True)
class Pairs:
    """The rows of two sides, paired.

    Attributes:
        units: What both have.
        common: How many rows that is, copies counted.
        only_before: Rows of the first side alone.
        only_after: Rows of the second side alone.
    """

    units: tuple[Unit, ...]
    common: int
    only_before: int
    only_after: int

    @property
    def swapped(self) -> Pairs:
        """The same with the sides exchanged."""
        units = tuple(Unit(u.after, u.before, u.weight, u.copies) for u in self.units)
        return Pairs(units, self.common, self.only_after, self.only_before)

    @property
    def means(self) -> tuple[float, float] | None:
        """Both sides' means over what they have in common; None where nothing counts."""
        weight = sum(u.weight for u in self.units)
        if weight == 0:
            return None
        return math.fsum(u.before for u in self.units) / weight, math.fsum(
            u.after for u in self.units
        ) / weight

    @property
    def is_binary(self) -> bool:
        """Whether each row is right or wrong, 1 or 0, on both sides."""
        return bool(self.units) and all(
            u.weight == u.copies and {u.before, u.after} <= {0.0, float(u.copies)} for u in self.units
        )


@dataclass(frozen=True)
class Effect:
    """The second side minus the first.

    Attributes:
        delta: The difference of the means.
        stderr: Its standard error; None where that is unknown.
        p: The chance of so large a difference, either way, where there is none; None where that is unknown.
        method: How `p` was come by; None where it was not.
    """

    delta: float
    stderr: float | None = None
    p: float | None = None
    method: SignificanceTest | None = None


def pair(before: Iterable[Observation], after: Iterable[Observation]) -> Pairs:
    """Pair the rows of two sides.

    A row that is k times on one side and m times on the other has min(k, m) pairs, and each side's mean over its own
    copies in every one of them.
    """
    ours, theirs = _by_row(before), _by_row(after)
    units: dict[Hashable, list[Unit]] = {}
    for row in ours.keys() & theirs.keys():
        old, new = ours[row], theirs[row]
        copies = min(len(old), len(new))
        weight = old[0].weight
        pair_of = Unit(_mean(old) * copies, _mean(new) * copies, weight * copies, copies)
        units.setdefault(row if new[0].unit is None else ("unit", new[0].unit), []).append(pair_of)
    common = sum(u.copies for of_one in units.values() for u in of_one)
    count = [sum(map(len, side.values())) for side in (ours, theirs)]
    return Pairs(tuple(map(_together, units.values())), common, count[0] - common, count[1] - common)


def _by_row(observations: Iterable[Observation]) -> dict[Hashable, list[Observation]]:
    # With its weight: a row of which more counts on one side is another row.
    found: dict[Hashable, list[Observation]] = {}
    for one in observations:
        found.setdefault((one.row, one.weight), []).append(one)
    return found


def _mean(copies: Sequence[Observation]) -> float:
    return math.fsum(one.value for one in copies) / len(copies)


def _together(units: Sequence[Unit]) -> Unit:
    """The rows of one unit, which were paired apart."""
    return Unit(
        math.fsum(u.before for u in units),
        math.fsum(u.after for u in units),
        sum(u.weight for u in units),
        sum(u.copies for u in units),
    )


def effect_of(pairs: Pairs) -> Effect | None:
    """How far two sides are apart on what they have in common, and how sure that is; None where that is nothing.

    With unit i of weight t_i and the difference d_i, Δ = Σ d_i / Σ t_i, whose error is that of a ratio
    (`stats.stderr_of_ratio`); of documents, that is the mean difference with s / √n. Δ over its error is held against
    Student's t with n' - 1 degrees of freedom, where n' = (Σ t_i)² / Σ t_i² is n for equal weights, and less where a
    few long rows weigh most (L. Kish, Survey Sampling, 1965, 11.7). Where rows are right or wrong and few pairs
    disagree, McNemar's exact test says more, see `FEW_DISCORDANT`. Of fewer than `stats.FEW_ROWS` units, the error is
    hardly known itself, and is not given.
    """
    means = pairs.means
    if means is None:
        return None
    apart = [u.after - u.before for u in pairs.units]
    weights = [u.weight for u in pairs.units]
    delta = math.fsum(apart) / sum(weights)
    known = len(pairs.units) >= FEW_ROWS
    stderr = (
        stderr_of_ratio(apart, weights) if known else None
    ) or None  # of differences all alike, nobody knows it
    if (
        pairs.is_binary
        and (b := sum(a < 0 for a in apart)) + (c := sum(a > 0 for a in apart)) < FEW_DISCORDANT
    ):
        return Effect(delta, stderr, mcnemar(b, c), SignificanceTest.MCNEMAR)
    if known and not any(apart):
        return Effect(0.0, None, 1.0, SignificanceTest.PAIRED)
    freedom = sum(weights) ** 2 / sum(w * w for w in weights) - 1
    if stderr is None or freedom < 1:  # one row outweighs all others
        return Effect(delta, stderr)
    return Effect(delta, stderr, _student(delta / stderr, freedom), SignificanceTest.PAIRED)


def unpaired(delta: float, before: float | None, after: float | None) -> Effect:
    """A difference of two values with standard errors of their own, taken as if independent.

    On the same rows that calls some true differences noise, and seldom the reverse.
    """
    if before is None or after is None or not (stderr := math.hypot(before, after)):
        return Effect(delta)
    return Effect(delta, stderr, math.erfc(abs(delta / stderr) / math.sqrt(2)), SignificanceTest.UNPAIRED)


def mcnemar(fell: int, rose: int) -> float:
    """McNemar's exact test, two-sided: the chance that pairs which disagree divide so unevenly, each way as likely.

    Args:
        fell: Pairs that were right on the first side alone.
        rose: Pairs that are right on the second side alone.
    """
    n = fell + rose
    tail = sum(math.comb(n, k) for k in range(min(fell, rose) + 1))
    return min(1.0, float(2 * tail / 2**n))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """P-values of a table, corrected so that the chance of a single false one among all of them is kept.

    The i-th smallest of m is multiplied by m - i + 1, and none is less than one before it (S. Holm, Scand. J. Stat. 6,
    1979, 65-70). Unknown ones count for nothing.
    """
    known = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    found: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        found[place] = least
    return found


def _student(t: float, freedom: float) -> float:
    """The chance of a value of Student's t further from 0, either way."""
    from scipy.special import stdtr  # noqa: PLC0415  a comparison of what is the same needs none

    return float(2 * stdtr(freedom, -abs(t)))
