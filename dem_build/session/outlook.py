"""What a plan comes to before any of it runs: the plan, what it will take, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.estimate import budgets, crowded, estimates, unfit
from dem_build.report.documents import plan_document
from dem_build.session.overlap import recorded_shared, shared_documents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.data.splits import Shared
    from dem_build.digest import JSON
    from dem_build.errors import DemError
    from dem_build.estimate import Budget, Estimate
    from dem_build.session.session import Session


@dataclass(frozen=True)
class Outlook:
    """A plan, and what is known of what is due.

    Attributes:
        session: The recipe, planned.
        estimates: What each action that is due is expected to take.
        mixtures: How long each mixture is trained.
        errors: What cannot fit into memory.
        warnings: What is not expected to.
        shared: Which prompts the datasets are known to share.
    """

    session: Session
    estimates: Sequence[Estimate]
    mixtures: Sequence[Budget]
    errors: Sequence[DemError]
    warnings: Sequence[str]
    shared: Sequence[Shared]

    def document(self) -> dict[str, JSON]:
        """The document of `dem plan --json`."""
        return plan_document(self.session.named, self.session.plan) | {
            "estimates": [e.document() for e in self.estimates],
            **({"mixtures": [m.document() for m in self.mixtures]} if self.mixtures else {}),
            "problems": [*map(str, self.errors), *self.warnings],
            "overlap": shared_documents(self.shared),
        }


def look_ahead(session: Session) -> Outlook:
    """What a session's plan comes to; reads what is recorded, and what is free of memory."""
    plan, store, machine = session.plan, session.store, session.machine
    here = machine.engine == "local"  # else it runs in memory that nobody here sees
    errors = unfit(plan, machine) if here else []
    return Outlook(
        session,
        estimates(plan, store, machine),
        budgets(plan),
        errors,
        [] if errors or not here else crowded(plan, store, machine),
        recorded_shared(session),
    )
