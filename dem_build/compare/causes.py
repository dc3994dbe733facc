"""Why actions of two sides differ, grouped by cause: what merely follows from a change upstream is told under it, once.

A cause is what a person wrote or changed: a file, a parameter, an ω, a dataset more, another version of dem or of
lm-eval. An action that takes what a changed action makes follows from that one's causes, unless what it takes came out
as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.action import BASE, HEAL, MODEL, OF_A_VECTOR, TRUNK, TUNE, UNHEALED
from dem_build.actions.mix.spec import KIND as MIX
from dem_build.compare.keys import Standing
from dem_build.plan import Difference, differences
from dem_build.report.comparison import subject
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.action import Action
    from dem_build.compare.keys import Keys
    from dem_build.compare.sides import Node, Side
    from dem_build.digest import JSON
    from dem_build.graph import Graph

STAGES = {TRUNK: "the trunk", HEAL: "healing", UNHEALED: "healing"}
SPLITS = ("train", "validation", "test")


class CauseKind(StrEnum):
    """What kind of change a cause is."""

    SOURCE = "source"
    PARAMETER = "parameter"
    OMEGA = "omega"
    VERSION = "version"
    NEW = "new"
    GONE = "gone"
    OTHER = "other"


@dataclass(frozen=True)
class Cause:
    """What a person changed.

    Attributes:
        kind: What kind of change.
        subject: Of what, in words of the recipe: `datasets.chat`, `omega.chat`, `learning_rate`.
        text: The change in words: `datasets.chat has 214 rows more`.
        old: What it was, where that is one value.
        new: What it is.
    """

    kind: CauseKind
    subject: str
    text: str
    old: JSON = None
    new: JSON = None

    @property
    def mark(self) -> tuple[str, str, str, str]:
        """What tells it from other causes; the same change of several actions is one."""
        return self.kind.value, self.subject, repr(self.old), repr(self.new)


@dataclass(frozen=True)
class CauseOfChange:
    """Actions that differ for the same causes.

    Attributes:
        causes: The causes, at least one.
        changed: Actions that a cause is said of itself.
        follow: Actions that differ as they take what those make.
    """

    causes: tuple[Cause, ...]
    changed: tuple[str, ...]
    follow: tuple[str, ...]

    @property
    def actions(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.changed, *self.follow)


def find_reasons(
    keys: Keys, before: Mapping[str, Node], after: Mapping[str, Node], sides: tuple[Side, Side]
) -> tuple[CauseOfChange, ...]:
    """Why each action that changed, is new or is gone does so, the fewest causes first."""
    finder = _Finder(keys, before, after, sides)
    own: dict[str, bool] = {}
    grouped: dict[tuple[tuple[str, str, str, str], ...], list[str]] = {}
    known: dict[tuple[str, str, str, str], Cause] = {}
    for name, causes, is_own in finder.all():
        for cause in causes:
            known.setdefault(cause.mark, cause)
        grouped.setdefault(tuple(sorted({cause.mark for cause in causes})), []).append(name)
        own[name] = is_own
    order = {mark: place for place, mark in enumerate(known)}
    found = [
        CauseOfChange(
            tuple(known[mark] for mark in sorted(marks, key=order.__getitem__)),
            tuple(name for name in names if own[name]),
            tuple(name for name in names if not own[name]),
        )
        for marks, names in grouped.items()
    ]
    return tuple(sorted(found, key=lambda r: (len(r.causes), [order[c.mark] for c in r.causes])))


@dataclass(frozen=True)
class _Taken:
    """What says which input this is, whatever its bytes are."""

    of: str
    action: str
    output: str
    group: str | None


class _Finder:
    """Follows changes through the graphs."""

    def __init__(
        self, keys: Keys, before: Mapping[str, Node], after: Mapping[str, Node], sides: tuple[Side, Side]
    ) -> None:
        self._keys, self._before, self._after, self._sides = keys, before, after, sides
        self._standing = {c.name: c.standing for c in keys.changes if c.standing is not Standing.GONE}
        self._gone: dict[str, list[Cause]] = {}  # by their names on the first side
        self._causes: dict[str, list[Cause]] = {}

    @property
    def _method(self) -> Cause | None:
        """The cause of another way to compose; None where both sides have one."""
        old, new = (side.build.graph.method for side in self._sides)
        text = f"`method` of [compose]: {old} → {new}"
        return None if old == new else Cause(CauseKind.PARAMETER, "compose.method", text, old, new)

    def _alone(self, action: Action, side: Side, *, is_new: bool) -> Cause:
        """The cause of an action that one side alone has, and that follows from no other."""
        if self._method is not None and _composes(action, side.build.graph):
            return self._method
        return _new(action, side) if is_new else _gone(action, side)

    def all(self) -> Iterator[tuple[str, list[Cause], bool]]:
        """Yield each action with its causes, and whether one of them is said of itself."""
        for change in self._keys.of(Standing.GONE):
            node = self._before[change.name]
            followed = _each(self._gone.get(name, ()) for name in node.action.upstream)
            self._gone[change.name] = followed or [self._alone(node.action, self._sides[0], is_new=False)]
            yield change.name, self._gone[change.name], not followed
        for name, node in self._after.items():
            standing = self._standing[name]
            if standing is Standing.NEW:
                followed = self._of_new(node)
                own = [] if followed else [self._alone(node.action, self._sides[1], is_new=True)]
                if self._method is not None and name == self._sides[1].build.graph.composing:
                    own = [self._method]  # it is healed now, and composed in another way as well
            elif standing is Standing.CHANGED:
                own, followed = self._of_changed(name, node)
            else:
                continue
            self._causes[name] = [*own, *followed]
            yield name, self._causes[name], bool(own)

    def _of_new(self, node: Node) -> list[Cause]:
        """What is new with what it takes follows from that; else it is new by itself."""
        new = (name for name in node.action.upstream if self._standing.get(name) is Standing.NEW)
        return _each(self._causes.get(name, ()) for name in new)

    def _of_changed(self, name: str, node: Node) -> tuple[list[Cause], list[Cause]]:
        old = self._before[self._keys.pairs[name]]
        own = list(self._own(old, node))
        were, are = self._inputs(old, renames=True), self._inputs(node, renames=False)
        followed: list[list[Cause]] = []
        for taken in dict.fromkeys((*were, *are)):
            then, now = were.get(taken), are.get(taken)
            if then is None:
                followed.append(self._causes.get(taken.action, []))
            elif now is None:
                followed.append(self._gone.get(self._old_name(old, taken), []))
            elif then != now:
                followed.append(self._causes.get(taken.action, []))
        follows = _each(followed)
        # A baseline of equal weights divides them anew where there is a vector more: nobody wrote that.
        composed = node.action.name == self._sides[1].build.graph.composing
        if not composed and follows and {*were} != {*are}:
            own = [cause for cause in own if cause.kind is not CauseKind.OMEGA]
        if not own and not follows:
            own = [_of_mixture(old, node, self._keys, self._sides) or _other(name, old, node)]
        return own, follows

    def _own(self, old: Node, new: Node) -> Iterator[Cause]:
        """Yield what differs of an action itself."""
        composes = [
            n.action.name == s.build.graph.composing for n, s in zip((old, new), self._sides, strict=True)
        ]
        if composes[0] != composes[1]:  # one of them is healed: that is told of what heals it
            return
        if not all(composes):
            yield from _own(old, new, self._keys, self._sides)
        elif self._method is not None:
            yield self._method  # the keys and ω of one way are not those of another
            yield from _in_both(old, new)
        elif (
            old.action.kind is not new.action.kind
        ):  # importances that were given are searched, or the other way
            yield from _in_both(old, new)
            yield from _importances(old.action, new.action, self._keys)
        else:
            yield from _own(old, new, self._keys, self._sides)

    def _inputs(self, node: Node, *, renames: bool) -> dict[_Taken, str]:
        """What an action takes → its digest; of the first side, called as the second one does."""
        nodes, names = (self._before, self._keys.names) if renames else (self._after, None)
        return {
            _Taken(
                t.of,
                names.action(nodes[t.at.action].action) if names else t.at.action,
                t.at.output,
                names.group(t.group) if names else t.group,
            ): nodes[t.at.action].outputs[t.at.output].digest
            for t in node.action.takes
            if not t.watched
        }

    def _old_name(self, old: Node, taken: _Taken) -> str:
        """What the first side calls the action that makes an input."""
        names = self._keys.names
        return next(
            t.at.action
            for t in old.action.takes
            if names.action(self._before[t.at.action].action) == taken.action and t.of == taken.of
        )


def _each(lists: Iterable[Iterable[Cause]]) -> list[Cause]:
    """All causes of some lists, each once."""
    return list({cause.mark: cause for causes in lists for cause in causes}.values())


def _own(old: Node, new: Node, keys: Keys, sides: tuple[Side, Side]) -> Iterator[Cause]:
    """Yield what differs of an action itself: not what it takes of others."""
    kinds = [node.action.kind.name for node in (old, new)]
    if kinds[0] != kinds[1]:  # then all that is said of it differs
        text = f"{new.action.name} is made in another way: {kinds[0]} → {kinds[1]}"
        yield Cause(CauseKind.PARAMETER, new.action.name, text, *kinds)
        return
    for found in differences(old.preimage, new.preimage, new.action, {}):
        if found.place.startswith("params."):
            yield _parameter(found.place.removeprefix("params."), found)
        elif found.place in ("kind", "version", "salt"):
            what = new.action.kind.name
            yield Cause(CauseKind.VERSION, what, f"{what}: {found}", found.old, found.new)
    if _sources(old) != _sources(new):
        yield _source(old, new, sides)
    yield from _omegas(old.action, new.action, keys)
    yield from _said_of_groups(old.action, new.action, keys, sides)


def _in_both(old: Node, new: Node) -> Iterator[Cause]:
    """Yield the parameters and the salt that two ways to make one model have in common, and that differ."""
    for found in differences(old.preimage, new.preimage, new.action, {}):
        name = found.place.removeprefix("params.")
        shared = name not in (found.place, "method") and None not in (found.old, found.new)
        if shared or name == "salt":
            yield _parameter(name, found)


def _composes(action: Action, graph: Graph) -> bool:
    """Whether an action is there for the way to compose, beside that which makes the model."""
    prefix, _, name = action.name.partition(":")
    return name not in graph.baselines and (
        prefix in (TUNE, "choice", *OF_A_VECTOR) or name in graph.candidates
    )


def _parameter(name: str, found: Difference) -> Cause:
    text = str(Difference(name, found.old, found.new))
    return Cause(CauseKind.PARAMETER, name, text, found.old, found.new)


def _sources(node: Node) -> list[tuple[str, str]]:
    return sorted((entry["tag"], entry["sha256"]) for entry in node.preimage["sources"])


def _source(old: Node, new: Node, sides: tuple[Side, Side]) -> Cause:
    """The cause of other files: of data, by how many rows they have more."""
    what = _subject(new.action, sides[1])
    digests = [d for _, d in _sources(old)], [d for _, d in _sources(new)]
    counts = [_rows(side, node.action.name) for side, node in zip(sides, (old, new), strict=True)]
    text = f"{what} has other files"
    if counts[0] is not None and counts[1] is not None:
        more = counts[1] - counts[0]
        said = f"{counted(abs(more), 'row')} {'more' if more > 0 else 'fewer'}"
        text = f"{what} has {said if more else 'other rows, as many as before'}"
    return Cause(CauseKind.SOURCE, what, text, *digests)


def _rows(side: Side, name: str) -> int | None:
    """How many rows a dataset has in all splits; None where that is not recorded."""
    record = side.build.records.get(name)
    if record is None or record.kind != "prepare":
        return None
    counts = [record.count("splits", split, "rows") for split in SPLITS]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _omegas(old: Action, new: Action, keys: Keys) -> Iterator[Cause]:
    """Yield what a vector's ω was and is, where an action takes it on both sides."""
    were = {keys.names.one(n): w for n, w in _given(old).items()}
    are = _given(new)
    for name in are:
        if name in were and were[name] != are[name]:
            yield _omega(name, were[name], are[name])


def _given(action: Action) -> dict[str, float | None]:
    vectors = [t for t in action.takes if t.of == "delta" and t.group is None]
    return {t.at.action.removeprefix("vector:"): t.omega for t in vectors}


def _omega(name: str, old: JSON, new: JSON, word: str = "ω") -> Cause:
    words = ["tune" if value is None else f"{value:g}" for value in (old, new)]
    return Cause(CauseKind.OMEGA, f"omega.{name}", f"{word} of {name}: {words[0]} → {words[1]}", old, new)


def _said_of_groups(old: Action, new: Action, keys: Keys, sides: tuple[Side, Side]) -> Iterator[Cause]:
    """Yield what is said of a dataset or vector alone, such as its importance in a search."""
    were = {keys.names.group(name) or name: said for name, said in old.groups.items()}
    before, after = (
        {keys.names.one(n): w for n, w in sides[0].build.graph.omega.items()},
        sides[1].build.graph.omega,
    )
    for name in (*were, *(name for name in new.groups if name not in were)):
        then, said = were.get(name), new.groups.get(name)
        if then is None or said is None:
            # With an importance of 0 a vector is in no group, though it is there.
            if name in before and name in after and before[name] != after[name]:
                yield _omega(name, before[name], after[name])
            continue
        for place in sorted({*then, *said}):
            if then.get(place) == said.get(place):
                continue
            if place == "omega":
                yield _omega(name, then.get(place), said.get(place))
            else:
                yield _parameter(f"{place} of {name}", Difference("", then.get(place), said.get(place)))


def _importances(old: Action, new: Action, keys: Keys) -> Iterator[Cause]:
    """Yield the importances of a matched model that are given on one side, and searched on the other."""
    were = {
        keys.names.group(name): said["importance"]
        for name, said in old.groups.items()
        if "importance" in said
    }
    for name, said in new.groups.items():
        if name in were and "importance" in said and were[name] != said["importance"]:
            yield _omega(name, were[name], said["importance"], "importance")


def _of_mixture(old: Node, new: Node, keys: Keys, sides: tuple[Side, Side]) -> Cause | None:
    """The cause of a mixture of other datasets, each of which was there before."""
    were, are = sorted(map(keys.names.one, old.action.groups)), sorted(new.action.groups)
    if new.action.kind is not MIX or were == are:
        return None
    what = f"datasets of {_subject(new.action, sides[1])}"
    text = f"{what}: {', '.join(were)} → {', '.join(are)}"
    return Cause(CauseKind.PARAMETER, what, text, [*were], [*are])


def _other(name: str, old: Node, new: Node) -> Cause:
    shown = differences(old.preimage, new.preimage, new.action, {})
    return Cause(CauseKind.OTHER, name, f"{name}: {'; '.join(map(str, shown[:3]))}")


def _new(action: Action, side: Side) -> Cause:
    what = _subject(action, side)
    text = "ω is searched for" if action.name == TUNE else f"{what} is new"
    return Cause(CauseKind.NEW, what, text)


def _gone(action: Action, side: Side) -> Cause:
    what = _subject(action, side)
    text = "ω is no longer searched for" if action.name == TUNE else f"{what} is gone"
    return Cause(CauseKind.GONE, what, text)


def _table(prefix: str, name: str, graph: Graph) -> str:
    """The table of the recipe that rows (`data`) or a vector are of."""
    vector = graph.actions.get(f"vector:{name}")
    if vector is None:
        return f"probes.{name}"
    if vector.kind.trains:
        return f"datasets.{name}"
    return f"vectors.{name}.rows" if prefix == "data" else f"vectors.{name}"


def _subject(action: Action, side: Side) -> str:
    """What an action is about, in words of the recipe."""
    prefix, _, name = action.name.partition(":")
    graph = side.build.graph
    if action.evaluation is not None:
        task = action.evaluation.task
        return {"loss": f"the test loss of {subject(task)}", "eval": f"tasks.{task}"}.get(prefix, f"`{task}`")
    if name in STAGES or name in graph.baselines:
        return STAGES.get(name) or f"baselines.{name}"
    if action.name == BASE:
        return "the base"
    if prefix in ("data", "vector"):
        return _table(prefix, name, graph)
    if graph.candidates and name:
        return "the choice between models"
    return f"the model of {name} alone" if prefix == MODEL and name else action.name
