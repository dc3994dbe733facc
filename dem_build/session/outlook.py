"""What a plan comes to before any of it runs: the plan, what it will take, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.estimate import at_once, budgets, crowded, estimates, unfit
from dem_build.report.documents import plan_document
from dem_build.session.overlap import recorded_shared, shared_documents
from dem_build.session.same_rows import same_rows
from dem_build.session.under_way import under_way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.data.splits import Shared
    from dem_build.digest import JSON
    from dem_build.errors import DemError
    from dem_build.estimate import AtOnce, Budget, Estimate
    from dem_build.session.session import Session
    from dem_build.session.under_way import UnderWay


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
        at_once: What all that is due takes where several actions run at once; None where one does.
        same_rows: Datasets that are known to have the same rows to train on.
        begun: What of it another process is at work on, or an earlier run has saved.
    """

    session: Session
    estimates: Sequence[Estimate]
    mixtures: Sequence[Budget]
    errors: Sequence[DemError]
    warnings: Sequence[str]
    shared: Sequence[Shared]
    same_rows: Sequence[tuple[str, ...]]
    begun: Sequence[UnderWay]
    at_once: AtOnce | None = None

    def document(self) -> dict[str, JSON]:
        """The document of `dem plan --json`."""
        moved = self.session.elsewhere
        return plan_document(self.session.named, self.session.plan) | {
            "estimates": [e.document() for e in self.estimates],
            **({"at_once": self.at_once.document()} if self.at_once else {}),
            **({"mixtures": [m.document() for m in self.mixtures]} if self.mixtures else {}),
            "problems": [*([moved] if moved else []), *map(str, self.errors), *self.warnings],
            "overlap": shared_documents(self.shared),
            **({"same_rows": [[*group] for group in self.same_rows]} if self.same_rows else {}),
            **({"begun": [b.document() for b in self.begun]} if self.begun else {}),
        }


def look_ahead(session: Session) -> Outlook:
    """What a session's plan comes to; reads what is recorded, and what is free of memory."""
    plan, store, machine = session.plan, session.store, session.machine
    here = machine.engine == "local"  # else it runs in memory that nobody here sees
    errors = unfit(plan, machine) if here else []
    found = estimates(plan, store, machine)
    together = at_once(plan, found, store, machine)
    warnings = [] if errors or not here else crowded(plan, store, machine)
    if together and together.warning and not errors:
        warnings.append(together.warning)
    begun = [*under_way(plan, store)]
    shared = recorded_shared(session)
    twins = same_rows(plan)
    return Outlook(session, found, budgets(plan), errors, warnings, shared, twins, begun, together)
