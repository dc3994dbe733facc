"""How much an action has to do, in units of its kind: what an estimate of its time goes by.

It is told by its plan and by its record alike, so that what earlier runs took tells of those that are due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.store import Record

JUDGING = ("data/validation", "data/rows")
"""Tags of what searches and curves judge by."""
SAMPLE = "data/sample"
"""The tag of a dataset's sample of training rows."""


class Due(Protocol):
    """An action that is due, with what is known of what it takes."""

    @property
    def action(self) -> Action:
        """The action."""
        ...

    @property
    def vectors(self) -> int:
        """How many vectors it takes."""
        ...

    def trained_tokens(self) -> int | None:
        """Tokens that it trains on, of a training; None before its data are prepared."""
        ...

    def sampled_tokens(self, tag: str, rows: int) -> int | None:
        """Tokens of the first `rows` rows of each sample that it takes under a tag; None before data are prepared."""
        ...

    def splits(self, tags: tuple[str, ...], what: str) -> list[int | None]:
        """What the data's records say of each split that it takes under some tags; None before these are there."""
        ...


@dataclass(frozen=True)
class Workload:
    """What a kind has to do.

    Attributes:
        planned: How much an action has; None where that is not known yet.
        recorded: How much a recorded one had; None where it does not say.
        same: Parameters without which one tells nothing of another.
        varies: Whether it does that more or less often, by what it finds: then the quickest and slowest run are told.
        tokens: Whether it counts tokens.
    """

    planned: Callable[[Due], float | None]
    recorded: Callable[[Record], float | None]
    same: tuple[str, ...] = ()
    varies: bool = False
    tokens: bool = False


def judging_rows(due: Due) -> int | None:
    """The rows that a search or its curves judge by."""
    most = due.action.params["max_samples"]
    rows = due.splits(JUDGING, "rows")
    return sum(min(n, most) for n in rows if n is not None) if None not in rows else None


def rows_by_vectors(due: Due) -> float | None:
    """Judging rows times vectors."""
    rows = judging_rows(due)
    return None if rows is None else rows * due.vectors


def recorded_rows_by_vectors(record: Record) -> float | None:
    """The same of a record."""
    rows = record.count("rows")
    return None if rows is None else rows * vectors_of(record)


def vectors_of(record: Record) -> int:
    """How many vectors a recorded action took."""
    return len({str(i.get("sha256")) for i in inputs_of(record) if i.get("of") == "delta"})


def inputs_of(record: Record) -> Iterator[Mapping[str, JSON]]:
    """The inputs of a record, those in groups too; one of another version of dem may say them otherwise."""
    groups = record.preimage.get("groups")
    places = [record.preimage, *(groups if isinstance(groups, list) else ())]
    for place in places:
        inputs = place.get("inputs") if isinstance(place, dict) else None
        yield from (i for i in inputs if isinstance(i, dict)) if isinstance(inputs, list) else ()
