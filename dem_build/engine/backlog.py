"""What a build has yet to give out, in the order of its graph."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dem_build.action import Action
    from dem_build.digest import Digest
    from dem_build.plan import Verdict


class Backlog(MutableMapping[str, "Verdict"]):
    """The actions that are due, by name, in the order of the graph; it may change while it is gone through.

    Attributes:
        changes: How often one was added or taken away.
    """

    def __init__(self, actions: Iterable[Action]) -> None:
        self._actions = list(actions)
        self._places = {action.name: place for place, action in enumerate(self._actions)}
        self.changes = 0
        self._verdicts: dict[str, Verdict] = {}
        self._same: dict[Digest | None, dict[str, Verdict]] = {}
        # Places, sorted. Trainings apart: while none may start, a thousand of them are not passed over each time.
        self._trainings: list[int] = []
        self._others: list[int] = []

    def names(self, *, trainings: bool, after: str | None = None) -> Iterator[str]:
        """The names of those that are due, in order, all or those behind an action; with or without trainings."""
        place = -1 if after is None else self._places[after]
        kept = [self._others, self._trainings] if trainings else [self._others]
        while found := [some[at] for some in kept if (at := bisect_right(some, place)) < len(some)]:
            place = min(found)
            yield self._actions[place].name

    def of_key(self, key: Digest) -> list[Verdict]:
        """Those that are due with a key: the same work under several names."""
        return list(self._same.get(key, {}).values())

    def _kept(self, place: int) -> list[int]:
        return self._trainings if self._actions[place].kind.trains else self._others

    def __getitem__(self, name: str) -> Verdict:
        return self._verdicts[name]

    def __setitem__(self, name: str, verdict: Verdict) -> None:
        if name in self._verdicts:
            del self[name]
        self.changes += 1
        place = self._places[name]
        insort(self._kept(place), place)
        self._verdicts[name] = verdict
        self._same.setdefault(verdict.key, {})[name] = verdict

    def __delitem__(self, name: str) -> None:
        verdict = self._verdicts.pop(name)
        self.changes += 1
        del (same := self._same[verdict.key])[name]
        if not same:
            del self._same[verdict.key]
        place = self._places[name]
        del (kept := self._kept(place))[bisect_left(kept, place)]

    def __contains__(self, name: object) -> bool:
        return name in self._verdicts

    def __iter__(self) -> Iterator[str]:
        return self.names(trainings=True)

    def __len__(self) -> int:
        return len(self._verdicts)
