"""What of a plan is being run by another process, and what an earlier run has saved of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions.checkpoints import newest_complete, step_of
from dem_build.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.digest import JSON
    from dem_build.plan import Plan
    from dem_build.store import Store


@dataclass(frozen=True)
class UnderWay:
    """An action that is due and was begun.

    Attributes:
        action: Its name.
        holder: Who is at work on it now; None where nobody is.
        saved: The step that it goes on from, of what an earlier or the present run has saved; None where nothing is.
    """

    action: str
    holder: str | None
    saved: int | None

    def document(self) -> dict[str, JSON]:
        """As a part of a JSON document."""
        return {"action": self.action, "holder": self.holder, "saved": self.saved}


def under_way(plan: Plan, store: Store) -> Iterator[UnderWay]:
    """Yield the actions that are due and were begun, in the graph's order; looks only, and changes nothing."""
    leased = store.leases.keys()
    for verdict in plan.due:
        if verdict.key is None or verdict.record is not None:  # what is rebuilt begins anew
            continue
        holder = store.leases.holder(verdict.key) if verdict.key in leased else None
        found = []
        with suppress(StoreError):  # which the build that is at work removes in this moment
            found = [newest_complete(run / "checkpoints") for run in store.work.previous(verdict.key)]
        saved = max((step_of(checkpoint) for checkpoint in found if checkpoint is not None), default=None)
        if holder is not None or saved is not None:
            yield UnderWay(verdict.action.name, None if holder is None else str(holder), saved)
