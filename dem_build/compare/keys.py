"""Which actions of two sides are the same work, which changed, and which are on one side only.

Actions are matched by identity (`sides.nodes`), which holds no name: a recipe that was renamed, moved, commented or put
in another order has the same ones. A dataset whose name alone changed has them too; it is then *renamed*, together
with what is named after it, and what else changed of it is compared under the new name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.report.comparison import LOSS_TASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.action import Action
    from dem_build.compare.sides import Node
    from dem_build.digest import JSON, Digest

NAMED = ("data:", "vector:", "model:")
"""Prefixes of actions that are called after a dataset, probe, vector or baseline."""
OF_DATA = (LOSS_TASK, "sample:")
"""Prefixes of tasks that are called after a dataset; those of lm-eval have names of their own."""


class Standing(StrEnum):
    """How an action of one side stands to the other one."""

    SAME = "same"
    RENAMED = "renamed"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True)
class ActionChange:
    """One action on both sides.

    Attributes:
        name: Its name; of one that is gone, the one it had.
        standing: How the second side stands to the first.
        before: Its key on the first side; None where there is none, or it is not known yet.
        after: The same on the second side.
        was: Its name on the first side, where that is another one.
        built: Whether the second side has a record of it.
    """

    name: str
    standing: Standing
    before: Digest | None = None
    after: Digest | None = None
    was: str | None = None
    built: bool = False

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        document: dict[str, JSON] = {
            "name": self.name,
            "standing": self.standing.value,
            "before": self.before,
            "after": self.after,
            "built": self.built,
        }
        return document if self.was is None else document | {"was": self.was}


@dataclass(frozen=True)
class Names:
    """What datasets, vectors and baselines of the first side are called on the second, where that is another name."""

    renamed: Mapping[str, str]

    def one(self, name: str) -> str:
        """A dataset, probe, vector, baseline or model."""
        return self.renamed.get(name, name)

    def group(self, name: str | None) -> str | None:
        """A group of inputs, such as `math/test`."""
        if name is None:
            return None
        first, slash, rest = name.partition("/")
        return self.one(first) + slash + rest

    def task(self, task: str) -> str:
        """A task in results: `loss:math`, `arc_easy`."""
        prefix = next((p for p in OF_DATA if task.startswith(p)), None)
        return task if prefix is None else prefix + self.one(task.removeprefix(prefix))

    def action(self, action: Action) -> str:
        """An action."""
        if action.evaluation is not None:
            model, task = action.evaluation.model, action.evaluation.task
            kind = action.name.partition(":")[0]
            # `loss:MODEL:NAME`, `eval:MODEL:TASK`, `sample:MODEL:NAME`; and `sample:MODEL`, of the task `sample`.
            last = [] if action.name.count(":") == 1 else [self.task(task).removeprefix(f"{kind}:")]
            return ":".join([kind, self.one(model), *last])
        prefix = next((p for p in (*NAMED, "tune:") if action.name.startswith(p)), None)
        return action.name if prefix is None else prefix + self.one(action.name.removeprefix(prefix))


@dataclass(frozen=True)
class Keys:
    """All actions of both sides, matched.

    Attributes:
        changes: Each action once: those of the second side in its graph's order, then those that are gone.
        pairs: Name on the second side → name on the first, for actions of both.
    """

    changes: tuple[ActionChange, ...]
    names: Names
    pairs: Mapping[str, str]

    def of(self, *standings: Standing) -> list[ActionChange]:
        """The actions that stand so."""
        return [change for change in self.changes if change.standing in standings]


def match_keys(before: Mapping[str, Node], after: Mapping[str, Node], built: Iterable[str] = ()) -> Keys:
    """Match the actions of two sides, of which the second has records of those that are `built`."""
    names, recorded = Names(_renamed(before, after)), set(built)
    pairs = _pairs(before, after, names)
    changes = [_change(name, node, before, pairs.get(name), name in recorded) for name, node in after.items()]
    left = before.keys() - {*pairs.values()}
    changes += [ActionChange(n, Standing.GONE, node.key) for n, node in before.items() if n in left]
    return Keys(tuple(changes), names, pairs)


def _change(name: str, node: Node, before: Mapping[str, Node], was: str | None, built: bool) -> ActionChange:
    if was is None:
        return ActionChange(name, Standing.NEW, None, node.key, built=built)
    old = before[was]
    other = None if was == name else was
    standing = Standing.CHANGED
    if old.identity == node.identity:
        standing = Standing.SAME if other is None else Standing.RENAMED
    return ActionChange(name, standing, old.key, node.key, other, built)


def _renamed(before: Mapping[str, Node], after: Mapping[str, Node]) -> dict[str, str]:
    """Old → new name of what has the same data or vector under another name.

    A name that still means the same is not renamed, though an equal dataset may stand beside it.
    """
    renamed: dict[str, str] = {}
    kept: set[str] = set()
    for prefix in NAMED:
        old = {n.removeprefix(prefix): node for n, node in before.items() if n.startswith(prefix)}
        new = {n.removeprefix(prefix): node for n, node in after.items() if n.startswith(prefix)}
        kept |= {name for name, node in new.items() if name in old and old[name].identity == node.identity}
        free: dict[Digest, list[str]] = {}
        for name, node in new.items():
            if name not in kept and name not in renamed.values():
                free.setdefault(node.identity, []).append(name)
        for name, node in old.items():
            if name not in kept and name not in renamed and free.get(node.identity):
                renamed[name] = free[node.identity].pop(0)
    return renamed


def _pairs(before: Mapping[str, Node], after: Mapping[str, Node], names: Names) -> dict[str, str]:
    """Name on the second side → name on the first: what was renamed first, as its old name may have gone to another."""
    called = {name: names.action(node.action) for name, node in before.items()}
    pairs: dict[str, str] = {}
    for name in sorted(before, key=lambda n: called[n] == n):
        if called[name] in after:
            pairs.setdefault(called[name], name)
    # Where what is called so is other work, and the same work has a name of its own.
    free: dict[Digest, list[str]] = {}
    for name, node in after.items():
        if name not in pairs:
            free.setdefault(node.identity, []).append(name)
    taken = {*pairs.values()}
    for name, node in before.items():
        if name not in taken and (waiting := free.get(node.identity)):
            pairs[waiting.pop(0)] = name
    return pairs
