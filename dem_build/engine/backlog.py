"""What a build has yet to give out, in the order of its graph."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dem_build.plan import Verdict

__all__ = ["Backlog"]


class Backlog(MutableMapping[str, "Verdict"]):
    """The actions that are due, by name, in the order of the graph; it may change while it is gone through.

    Args:
        names: All that there may be, in their order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._due: list[int] = []  # places, sorted
        self._verdicts: dict[str, Verdict] = {}

    def __getitem__(self, name: str) -> Verdict:
        return self._verdicts[name]

    def __setitem__(self, name: str, verdict: Verdict) -> None:
        if name not in self._verdicts:
            insort(self._due, self._places[name])
        self._verdicts[name] = verdict

    def __delitem__(self, name: str) -> None:
        del self._verdicts[name]
        del self._due[bisect_left(self._due, self._places[name])]

    def __iter__(self) -> Iterator[str]:
        place = -1
        while (at := bisect_right(self._due, place)) < len(self._due):
            place = self._due[at]
            yield self._names[place]

    def __len__(self) -> int:
        return len(self._verdicts)
