"""Which rows are used of a dataset that has parts: most of each sub-dataset, then each part's share of all.

A row's place is a hash of what it says, and the first rows by their places are taken. No seed, no order of rows or
files and no number of processes has a say, and of rows that are added those of a low hash alone change what is taken.
What is left out after the caps is chosen by another hash (`again`).

What is held out keeps its proportion: of a sub-dataset with `max_samples` = 500 of whose rows a twentieth is validation
and as much is test, at most 500 rows are trained on, and 28 are held out for each.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from dem_build.data.splits import Smallest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.data.splits import Splitter

    Group = tuple[str, ...]


def again(place: bytes) -> bytes:
    """A row's place among those that caps have left, which does not follow from its first one: 32 bytes."""
    # What a cap leaves of a million rows are a million's lowest places: by these all of it would come before nearly
    # every row of a small sub-dataset, and that would be what shares leave out.
    return hashlib.sha256(place).digest()


@dataclass(frozen=True, slots=True)
class Placed:
    """What decides whether a row is used.

    Attributes:
        part: The part that it is of.
        subset: The sub-dataset in it.
        side: `train`, `validation` or `test`.
        place: As `splits.row_order` gives it.
    """

    part: str
    subset: str
    side: str
    place: bytes


@dataclass(frozen=True)
class Parts:
    """The rules of a dataset's parts.

    Attributes:
        rules: A part's name in keys → `columns`, `by`, `max_samples`, `share`, those that it has.
        splitter: The dataset's shares held out.
    """

    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    splitter: Splitter | None = None

    def columns(self, part: str) -> Mapping[str, str]:
        """The columns of a part that are not those of the dataset."""
        found: Mapping[str, str] = self.rules[part].get("columns") or {}
        return found

    def by(self, part: str) -> str | None:
        """The column that tells a part's sub-datasets apart, if there is one."""
        found: str | None = self.rules[part].get("by")
        return found

    @property
    def passes(self) -> int:
        """How often all rows have to be read before it is known which ones are used."""
        capped = any("max_samples" in rule for rule in self.rules.values())
        return 2 if self._shared else int(capped)

    @property
    def _shared(self) -> bool:
        return any("share" in rule for rule in self.rules.values())

    def taken(self, rows: Callable[[], Iterable[Placed]], most: int | None) -> Taken:
        """Which rows are used.

        Args:
            rows: All rows that are in parts, in any order; called once for each of `passes`.
            most: Most training rows of the dataset, where it says so.
        """
        taken = Taken()
        if self.passes:
            capped = _Firsts(
                lambda r: (r.part, r.subset, r.side),
                lambda r: self._most(r, self._cap(r.part)),
                lambda r: r.place,
            )
            for row in rows():
                capped.look(row)
            taken = Taken((capped,))
            taken.subsets.update({name: len(each) for name, each in _subsets(capped).items()})
        if self._shared:
            trained = Counter[str]()
            for (part, _, side), count in capped.counts().items():
                trained[part] += count if side == "train" else 0
            if lacking := self.rules.keys() - (+trained).keys():
                return Taken((capped,), taken.subsets, frozenset(lacking))
            room = self._room(trained, most)
            shared = _Firsts(
                lambda r: (r.part, r.side), lambda r: self._most(r, room[r.part]), lambda r: again(r.place)
            )
            keeps = taken.filter()
            for row in rows():
                if keeps(row):
                    shared.look(row)
            taken = Taken((*taken.stages, shared), taken.subsets)
        return taken

    def _cap(self, part: str) -> int | None:
        found: int | None = self.rules[part].get("max_samples")
        return found

    def _room(self, trained: Mapping[str, int], most: int | None) -> dict[str, int]:
        """Training rows of each part: as many as its share is of all, where none has more than it has."""
        shares = {part: _exact(rule["share"]) for part, rule in self.rules.items()}
        whole = sum(shares.values())
        total = min(Fraction(trained[part]) / share for part, share in shares.items()) * whole
        if most is not None:
            total = min(total, Fraction(most))
        return {part: int(total * share / whole) for part, share in shares.items()}

    def _most(self, row: Placed, trained: int | None) -> int | None:
        """Most rows of a row's side, where that many are trained on."""
        if trained is None or row.side == "train" or self.splitter is None:
            return trained
        shares = {"validation": self.splitter.validation, "test": self.splitter.test}
        return math.ceil(trained * _exact(shares[row.side]) / (1 - sum(map(_exact, shares.values()))))


NO_PARTS = Parts()


def _exact(share: float) -> Fraction:
    # As it is written: the float 0.1 is a little more, and an eighth of 40 rows would round up to 6.
    return Fraction(str(share))


class _Firsts:
    """The first rows of several groups by their places. Memory: as many places as are kept.

    Args:
        group: Which group a row is of.
        most: How many rows of its group are kept; None for all.
        place: Its place among them.
    """

    def __init__(
        self,
        group: Callable[[Placed], Group],
        most: Callable[[Placed], int | None],
        place: Callable[[Placed], bytes],
    ) -> None:
        self.group, self._most, self.place = group, most, place
        self._limits: dict[Group, int | None] = {}
        self._heaps: dict[Group, list[int]] = {}
        self._seen: Counter[Group] = Counter()

    def look(self, row: Placed) -> None:
        """Look at one more row."""
        group = self.group(row)
        if group not in self._limits:
            self._limits[group], self._heaps[group] = self._most(row), []
        self._seen[group] += 1
        limit, heap = self._limits[group], self._heaps[group]
        if limit is None:
            return
        # A heap of the largest: the row that goes is the last by its place. One more is kept than are taken: whether
        # rows of the last place fit in all, or some of them, shows by the next.
        last = -int.from_bytes(self.place(row), "big")
        if len(heap) <= limit:
            heapq.heappush(heap, last)
        elif last > heap[0]:
            heapq.heapreplace(heap, last)

    def counts(self) -> dict[Group, int]:
        """How many rows of each group are kept."""
        return {g: n if (m := self._limits[g]) is None else min(n, m) for g, n in self._seen.items()}

    def smallest(self) -> dict[Group, Smallest]:
        """What keeps each group's rows, once over all of them; groups that keep all have none."""
        found = {}
        for group, limit in self._limits.items():
            if limit is not None:
                places = ((-place).to_bytes(32, "big") for place in self._heaps[group])
                found[group] = Smallest(places, limit)
        return found


def _subsets(firsts: _Firsts) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part, subset, _ in firsts.counts():
        found.setdefault(part, set()).add(subset)
    return found


@dataclass(frozen=True)
class Taken:
    """Which rows are used: those that every stage keeps.

    Attributes:
        stages: One after another.
        subsets: Part → how many sub-datasets it has, where they were told apart.
        lacking: Parts with a share that have no training row: beside them no other part can have one.
    """

    stages: tuple[_Firsts, ...] = ()
    subsets: dict[str, int] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()

    def filter(self) -> Callable[[Placed], bool]:
        """What tells whether a row is used; asked once for each row, of one pass over all of them."""
        stages = [(stage, stage.smallest()) for stage in self.stages]

        def keeps(row: Placed) -> bool:
            for stage, kept in stages:
                if (limit := kept.get(stage.group(row))) is not None and not limit.keeps(stage.place(row)):
                    return False
            return True

        return keeps
