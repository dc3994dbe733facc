"""Graph × records → a verdict for each action, with its reason. Decides, and changes nothing.

The same `decide` serves a plan and a build: a plan asks it once an action, a build asks again as outputs become
known, and that is all there is to early cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dem_build import action as actions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest, Output
    from dem_build.graph import Graph
    from dem_build.store import Record
    from dem_build.store.records import Away


class Status(StrEnum):
    """What a plan says of an action."""

    HIT = "hit"
    RUN = "run"
    PENDING = "pending"


class Why(StrEnum):
    """Why an action has its verdict; closed, so that every reason is rendered in one place."""

    RECORDED = "recorded"
    AWAY = "recorded elsewhere"
    FIRST = "never built"
    CHANGED = "changed"
    LOST = "lost"
    ASKED = "asked"
    WAITS = "waits"


@dataclass(frozen=True)
class Difference:
    """One place where two preimages differ; None stands for absent.

    Attributes:
        place: `params.learning_rate`, an output (`data:math/train`), `sources.jsonl`, `version` …
        old: What the last build had.
        new: What is there now.
    """

    place: str
    old: JSON
    new: JSON

    def __str__(self) -> str:
        return f"{self.place}: {_brief(self.old)} → {_brief(self.new)}"


@dataclass(frozen=True)
class Reason:
    """Why an action is hit, due or pending; `away` tells which objects of a hit are not here, and where they are."""

    why: Why
    differences: tuple[Difference, ...] = ()
    waits_for: tuple[str, ...] = ()
    away: Away | None = None

    def __str__(self) -> str:
        if self.why is Why.CHANGED:
            kinds = [d for d in self.differences if d.place == "kind"]  # of another kind all is different
            shown = "; ".join(str(d) for d in kinds or self.differences[:3])
            more = 0 if kinds else len(self.differences) - 3
            return f"changed: {shown}" + (f"; and {more} more" if more > 0 else "")
        if self.why is Why.WAITS:
            return f"depends on {', '.join(self.waits_for)}"
        if self.away is not None:
            return f"recorded in {self.away.where}"
        return {
            Why.RECORDED: "recorded",
            Why.FIRST: "never built",
            Why.LOST: "its record or an object of it is lost or damaged",
            Why.ASKED: "asked for with --rebuild",
        }[self.why]


@dataclass(frozen=True)
class Verdict:
    """What is to be done about one action. `key` and `preimage` are None while an input is unknown."""

    action: Action
    status: Status
    reason: Reason
    key: Digest | None = None
    preimage: JSON = None
    record: Record | None = None


class Lookup(Protocol):
    """What a plan needs of a store: its records."""

    def lookup(self, key: Digest) -> Record | None:
        """The record of `key` when its objects are all there."""
        ...

    def peek(self, key: Digest) -> Record | None:
        """The record of `key` when it can be read, whatever became of its objects."""
        ...

    def expect(self, keys: Iterable[Digest]) -> None:
        """Hear which keys are about to be looked up: who has to ask others for records asks for all at once."""
        ...


@dataclass(frozen=True)
class History:
    """The last build of a recipe: action → key."""

    keys: Mapping[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A verdict for each action, in the graph's order, and the last build that reasons compare with."""

    graph: Graph
    verdicts: Mapping[str, Verdict]
    history: History = field(default_factory=History)

    def of(self, status: Status) -> list[Verdict]:
        """The verdicts of one status."""
        return [v for v in self.verdicts.values() if v.status is status]

    @property
    def due(self) -> list[Verdict]:
        """The verdicts on what runs, or may have to."""
        return [v for v in self.verdicts.values() if v.status is not Status.HIT]

    @property
    def records(self) -> dict[str, Record]:
        """Action → its record, for those that have one."""
        return {name: v.record for name, v in self.verdicts.items() if v.record is not None}

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is due."""
        return all(v.status is Status.HIT for v in self.verdicts.values())


def make_plan(
    graph: Graph, records: Lookup, history: History, rebuild: AbstractSet[str] = frozenset()
) -> Plan:
    """What would run, and why, without changing anything."""
    verdicts: dict[str, Verdict] = {}
    known: dict[str, Mapping[str, Output]] = {}
    judge = _Judge(known, records, history, rebuild)
    for ready in levels(graph):
        identities = {action.name: _identity(action, known) for action in ready}
        records.expect(identity.key for identity in identities.values() if identity is not None)
        for action in ready:
            verdict = verdicts[action.name] = judge.verdict(action, identities[action.name])
            if verdict.record is not None and verdict.status is Status.HIT:
                known[action.name] = verdict.record.outputs
    return Plan(graph, {name: verdicts[name] for name in graph.actions}, history)


def levels(graph: Graph) -> Iterator[list[Action]]:
    """The actions in groups: what an action takes from is in groups before its own."""
    depth: dict[str, int] = {}
    levels: dict[int, list[Action]] = {}
    for action in graph:
        at = depth[action.name] = 1 + max((depth[name] for name in action.upstream), default=-1)
        levels.setdefault(at, []).append(action)
    return iter(levels[at] for at in sorted(levels))


def decide(
    action: Action,
    known: Mapping[str, Mapping[str, Output]],
    records: Lookup,
    history: History,
    rebuild: AbstractSet[str] = frozenset(),
) -> Verdict:
    """The verdict on one action, given the outputs that are known so far.

    Args:
        action: The action.
        known: Name of an action → its outputs, for those whose outputs are known.
        records: Where to look keys up.
        history: Keys of the recipe's last build, to explain what changed.
        rebuild: Names of actions that must run whatever is recorded.
    """
    return _Judge(known, records, history, rebuild).verdict(action, _identity(action, known))


class _Identity(NamedTuple):
    """The key of an action, and what it is the hash of."""

    key: Digest
    preimage: dict[str, JSON]


def _identity(action: Action, known: Mapping[str, Mapping[str, Output]]) -> _Identity | None:
    """What an action is, given the outputs that are known so far; None while an input is unknown."""
    if any(name not in known for name in action.upstream):
        return None
    document = preimage_of(action, known)
    return _Identity(actions.key_of(document), document)


@dataclass(frozen=True)
class _Judge:
    """What a verdict depends on beside its action: as `decide` takes it."""

    known: Mapping[str, Mapping[str, Output]]
    records: Lookup
    history: History
    rebuild: AbstractSet[str]

    def verdict(self, action: Action, identity: _Identity | None) -> Verdict:
        """The verdict on an action that is what `_identity` says of it."""
        if identity is None:
            unknown = tuple(name for name in action.upstream if name not in self.known)
            return Verdict(action, Status.PENDING, Reason(Why.WAITS, waits_for=unknown))
        key, document = identity
        record = self.records.lookup(key)
        if action.name in self.rebuild:  # with its record, which says whether the same came out again
            return Verdict(action, Status.RUN, Reason(Why.ASKED), key, document, record)
        if record is None:
            return Verdict(action, Status.RUN, self._missed(action, identity), key, document)
        away = record.away if record.away is not None and record.away.blobs else None
        reason = Reason(Why.RECORDED if away is None else Why.AWAY, away=away)
        return Verdict(action, Status.HIT, reason, key, document, record)

    def _missed(self, action: Action, identity: _Identity) -> Reason:
        """Why an action has no record."""
        last = self.history.keys.get(action.name)
        # Nothing changed and yet it is a miss: the record, or an object that it names, is gone.
        lost = last == identity.key or self.records.peek(identity.key) is not None
        old = self.records.peek(last) if last is not None and not lost else None
        if old is None:
            return Reason(Why.LOST if lost else Why.FIRST)
        changed = differences(old.preimage, identity.preimage, action, _makers(action, self.known))
        return Reason(Why.CHANGED, tuple(changed))


def key_of(action: Action, known: Mapping[str, Mapping[str, Output]]) -> Digest | None:
    """The key of an action, given the outputs that are known so far; None while an input is unknown."""
    identity = _identity(action, known)
    return None if identity is None else identity.key


def preimage_of(action: Action, known: Mapping[str, Mapping[str, Output]]) -> dict[str, JSON]:
    """The preimage of an action whose inputs are all known."""
    inputs = [taken.moved(known[taken.at.action][taken.at.output]) for taken in action.takes]
    return actions.preimage(action, inputs)


def _makers(action: Action, known: Mapping[str, Mapping[str, Output]]) -> dict[Digest, str]:
    """Map the digests of inputs that no tag tells apart (vectors, groups) to the actions that made them."""
    alone = _edge_names(action)
    return {
        known[t.at.action][t.at.output].digest: t.at.action
        for t in action.takes
        if not t.watched and (t.group is not None or t.of not in alone)
    }


def differences(old: JSON, new: JSON, action: Action, makers: Mapping[Digest, str]) -> list[Difference]:
    """Where two preimages of an action differ, in words of the recipe: `dem why`.

    Args:
        old: The preimage of the last build.
        new: The preimage of this one.
        action: The action.
        makers: Digests of outputs → the actions that made them, where the digests would say nothing to a person.
    """
    places_old, places_new = _places(old, makers), _places(new, makers)
    names = _edge_names(action)
    return [
        Difference(names.get(place, place), places_old.get(place), places_new.get(place))
        for place in sorted({*places_old, *places_new})
        if places_old.get(place) != places_new.get(place)
    ]


def _places(document: JSON, makers: Mapping[Digest, str]) -> dict[str, JSON]:
    """Flatten a preimage: a place a parameter, an input and a source."""
    places = {name: document.get(name) for name in ("kind", "version", "salt")}
    places |= {f"params.{name}": value for name, value in document["params"].items()}
    for entry in document["inputs"]:
        _add(places, entry["of"], _described(entry, makers))
    for group in document.get("groups", ()):
        places |= _group_places(group, makers)
    for entry in document["sources"]:
        _add(places, f"sources.{entry['tag']}", entry["sha256"])
    return places


def _add(places: dict[str, JSON], place: str, value: JSON) -> None:
    """Put a value at its place; several of one tag (vectors, data files) become a list."""
    places[place] = value if place not in places else [*_listed(places[place]), value]


def _listed(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else [value]


def _described(entry: JSON, makers: Mapping[Digest, str]) -> str:
    what = makers.get(entry["sha256"], str(entry["sha256"]))
    if "unit" in entry:  # rows of which several have one prompt, where keys did not always say so
        what = f"{entry['unit']} by {entry['unit']} {what}"
    return what if "omega" not in entry else f"{entry['omega']:g} × {what}"


def _group_places(group: JSON, makers: Mapping[Digest, str]) -> dict[str, JSON]:
    """Name a group by its vector, or by its rows where it has none: a dataset's name is in no preimage."""
    entries = {entry["of"]: entry for entry in group["inputs"]}
    first = "delta" if "delta" in entries else min(entries)
    taken = entries.pop(first)
    name = makers.get(taken["sha256"]) or f"{first} {taken['sha256'][:12]}"
    params = {f"{name}, {param}": value for param, value in group["params"].items()}
    others = {f"{name}, {of}": _described(entry, {}) for of, entry in entries.items()}
    return {name: _described({**taken, "sha256": "taken"}, {}), **params, **others}


def _edge_names(action: Action) -> dict[str, str]:
    """Map a tag to the output that has it, where only one has."""
    names: dict[str, list[str]] = {}
    for taken in action.takes:
        names.setdefault(taken.of, []).append(str(taken.at))
    return {of: edges[0] for of, edges in names.items() if len(edges) == 1}


def _brief(value: JSON) -> str:
    """Render a value of a preimage for a person: digests shortened, absence named."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "[" + ", ".join(_brief(v) for v in value) + "]"
    text = str(value)
    head, _, tail = text.rpartition(" ")
    is_digest = len(tail) == 64 and all(c in "0123456789abcdef" for c in tail)
    return f"{head} {tail[:12]}".strip() if is_digest else text
