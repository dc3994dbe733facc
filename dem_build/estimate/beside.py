"""Actions that run at once on one machine: what they share, and how long all that is due takes then."""

from __future__ import annotations

from bisect import insort
from collections import ChainMap
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, cast

from dem_build.estimate.due import on_gpu, same_work
from dem_build.estimate.estimates import Estimator
from dem_build.hardware import gigabytes, room
from dem_build.slots import known_slots
from dem_build.wording import together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.estimate.estimates import Estimate
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record, Store


@dataclass(frozen=True)
class SharedMemory:
    """The memory that actions share on a machine without GPUs: an `engine.build.Memory`.

    Attributes:
        free: Bytes that are free before any of them runs.
    """

    plan: Plan
    store: Store
    machine: Machine
    free: int
    _told: dict[tuple[str, tuple[str, ...]], int] = field(default_factory=dict, repr=False, compare=False)
    _estimators: dict[tuple[str, str | None], Estimator] = field(
        default_factory=dict, repr=False, compare=False
    )

    def told_by(self, action: Action) -> tuple[str, ...]:
        """The actions by whose records one knows what an action needs: its base's, and what it takes from."""
        return (self.plan.graph.base_of(action), *action.upstream)

    def of(self, action: Action, records: Mapping[str, Record]) -> int:
        """The bytes that an action needs, about, of what holds a whole model at least that; 0 where it is not known.

        Args:
            action: Of the plan.
            records: Action → its record, of those that tell, as far as they were made since.
        """
        # A build asks of each action that waits, again and again.
        asked = action.name, tuple(record.key for record in records.values())
        if asked not in self._told:
            verdicts = {n: replace(self.plan.verdicts[n], record=record) for n, record in records.items()}
            # Laid over the plan's and not copied: a build of ten thousand actions asks as often.
            over = ChainMap(verdicts, cast("dict[str, Verdict]", self.plan.verdicts))
            plan = replace(self.plan, verdicts=over)
            name = self.plan.graph.base_of(action)
            base = name, records[name].key if name in records else None
            if base not in self._estimators:  # which reads the base's config
                self._estimators[base] = Estimator.of_plan(plan, self.store, self.machine, name)
            estimator = replace(self._estimators[base], plan=plan)
            self._told[asked] = estimator.held(self.plan.verdicts[action.name])
        return self._told[asked]


def shared_memory(plan: Plan, store: Store, machine: Machine) -> SharedMemory | None:
    """What actions share that run at once; None where one runs at a time, or has a GPU or a job, or nobody can tell."""
    if on_gpu(machine) or _slots(machine) < 2:
        return None
    space = room()
    return None if space is None or space.free is None else SharedMemory(plan, store, machine, space.free)


@dataclass(frozen=True)
class AtOnce:
    """What is due, where several actions run at once.

    Attributes:
        slots: How many do.
        memory: Bytes that are needed at most: of those together that run at once, or of the largest where each has a
            GPU. None where none is known.
        seconds: From the first action to the last, of those whose time is known; as the slowest searches.
        least_seconds: The same as the quickest ones.
        warning: What waits for memory; None where all fits that could run at once.
    """

    slots: int
    memory: int | None
    seconds: float
    least_seconds: float
    warning: str | None = None

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return {
            "slots": self.slots,
            "memory": self.memory,
            "seconds": self.seconds,
            "least_seconds": self.least_seconds,
        }


def at_once(plan: Plan, found: Sequence[Estimate], store: Store, machine: Machine) -> AtOnce | None:
    """What all that is due takes, where several actions run at once; None where one does, or jobs run them.

    Args:
        plan: What is due.
        found: Its estimates.
        store: Where it runs.
        machine: How many run at once.
    """
    number = _slots(machine)
    if number < 2 or len(found) < 2:
        return None
    shared = shared_memory(plan, store, machine)
    memory = {e.name: shared.of(plan.graph.actions[e.name], {}) for e in found} if shared else {}
    work = [
        _Work(e.name, after, e.least_seconds or 0.0, e.seconds or 0.0, memory.get(e.name, 0))
        for e, after in zip(found, _after(plan, [e.name for e in found]), strict=True)
    ]
    free = shared.free if shared else None
    course = _course(work, number, free, [w.seconds for w in work])
    least = _course(work, number, free, [w.least_seconds for w in work])
    largest = max((e.memory for e in found if e.memory is not None), default=None)
    return AtOnce(
        number,
        course.memory if shared and largest is not None else largest,
        course.seconds,
        least.seconds,
        _warning(_course(work, number, None, [w.seconds for w in work]), shared.free) if shared else None,
    )


def _slots(machine: Machine) -> int:
    """How many actions run at once on this machine; 1 where jobs run them, whose number their cluster decides."""
    return max(1, len(known_slots(machine))) if machine.engine == "local" else 1


def _after(plan: Plan, names: Sequence[str]) -> list[set[str]]:
    """For each of the actions that are due, those of them that it waits for."""
    same = same_work(plan)
    first = [name for name in names if plan.graph.actions[name].kind.before_training]
    return [
        {same[n] for n in plan.graph.actions[name].upstream if n in same}
        | set(first if plan.graph.actions[name].kind.trains else ())
        for name in names
    ]


def _warning(course: _Course, free: int) -> str | None:
    if course.memory <= free:
        return None
    return (
        f"{together(course.most)} would need about {gigabytes(course.memory)} at once, and this machine has "
        f"{gigabytes(free)} free; what does not fit beside what runs waits for it"
    )


@dataclass(frozen=True)
class _Work:
    """An action that is due: what it waits for, its time in seconds, and its memory in bytes."""

    name: str
    after: set[str]
    least_seconds: float
    seconds: float
    memory: int


@dataclass(frozen=True)
class _Course:
    """How a build goes: its seconds, the bytes at its most, and which actions ran then."""

    seconds: float
    memory: int
    most: tuple[str, ...]


def _course(work: Sequence[_Work], number: int, free: int | None, seconds: Sequence[float]) -> _Course:
    """Go through what is due as a build does: an idle slot gets the first action, in order, that may start and fits.

    Args:
        work: What is due, in the graph's order.
        number: Slots.
        free: Bytes that those may take which run at once; None: no bound. Beside what takes none one may take any.
        seconds: Of each, in the order of `work`.
    """
    left = {w.name: len(w.after) for w in work}
    followers: dict[str, list[int]] = {}
    for place, one in enumerate(work):
        for name in one.after:
            followers.setdefault(name, []).append(place)
    ready = [place for place, one in enumerate(work) if not one.after]
    running: list[tuple[float, int]] = []
    clock, most = 0.0, 0
    names: tuple[str, ...] = ()
    while ready or running:
        for place in list(ready):
            held, needed = sum(work[other].memory for _, other in running), work[place].memory
            if len(running) == number:
                break
            if free is None or not (held and needed) or held + needed <= free:
                ready.remove(place)
                heappush(running, (clock + seconds[place], place))
        held = sum(work[place].memory for _, place in running)
        if held > most:
            most, names = held, tuple(work[place].name for _, place in sorted(running, key=lambda r: r[1]))
        clock, ended = heappop(running)
        for place in followers.get(work[ended].name, ()):
            left[work[place].name] -= 1
            if not left[work[place].name]:
                insort(ready, place)
    return _Course(clock, most, names)
