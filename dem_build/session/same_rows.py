"""Datasets with the same rows to train on: most likely a path that was copied, and told before a training starts.

What is trained alike on both is one action, so that nothing is trained twice; but the model then has that vector with
the sum of their ω, and evaluations of both say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.session.relay import Relay
from dem_build.wording import together

if TYPE_CHECKING:
    from dem_build.digest import Digest
    from dem_build.engine.outcome import Listener, Result
    from dem_build.plan import Plan

WHAT_FOLLOWS = "what is trained alike on them is one vector, with the sum of their ω"


def same_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Datasets that are known to have the same rows to train on, as groups in the graph's order; reads no data.

    Of what is prepared the digests tell, and before that what is prepared alike from the same files.
    """
    from dem_build.estimate.due import same_work  # noqa: PLC0415  where nothing is due, no estimate is loaded

    alike = same_work(plan, "prepare")
    groups: dict[Digest | str, list[str]] = {}
    for name in _trained_on(plan):
        record = plan.verdicts[name].record
        rows = alike[name] if record is None else record.outputs["train"].digest
        groups.setdefault(rows, []).append(name.removeprefix("data:"))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def said(group: tuple[str, ...]) -> str:
    """What is said of such datasets."""
    return f"{together(group)} have the same rows to train on: {WHAT_FOLLOWS}"


def _trained_on(plan: Plan) -> list[str]:
    """The actions that prepare what vectors are trained on, in the graph's order."""
    taken = {t.at.action for a in plan.graph if a.kind.trains for t in a.takes if t.of == "data/train"}
    return [action.name for action in plan.graph if action.name in taken and action.kind.name == "prepare"]


class TellingSameRows(Relay):
    """Follows a build for another listener, and tells it of datasets with the same rows as soon as they are known."""

    def __init__(self, listener: Listener, plan: Plan) -> None:
        super().__init__(listener)
        self._names = {*_trained_on(plan)}
        self._first: dict[Digest, str] = {}
        self._told: set[str] = set()
        for group in same_rows(plan):
            self._tell(plan, group)
        for name, record in plan.records.items():
            if name in self._names:
                self._first.setdefault(record.outputs["train"].digest, name)
        self._plan = plan

    def action_ended(self, result: Result) -> None:
        """Look at the rows of a dataset that is prepared, and tell the other one."""
        super().action_ended(result)
        name = result.action.name
        if name not in self._names or result.record is None:
            return
        first = self._first.setdefault(result.record.outputs["train"].digest, name)
        if name not in self._told and first != name:
            self._tell(self._plan, (first.removeprefix("data:"), name.removeprefix("data:")))

    def _tell(self, plan: Plan, group: tuple[str, ...]) -> None:
        self._told |= {f"data:{name}" for name in group}
        last = plan.graph.actions[f"data:{group[-1]}"]
        self.action_event(last, {"event": "warning", "message": said(group)})
