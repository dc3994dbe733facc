"""What a mixture of datasets will hold, as planned from the records of its data: its token budget."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.data.budget import Length, Size, mixture_tokens, token_shares
from dem_build.estimate.training import Rows

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record

__all__ = ["Budget", "budgets", "mixed_rows", "rows_of"]


@dataclass(frozen=True)
class Budget:
    """How long a mixture is trained.

    Attributes:
        baseline: Its name.
        equal: Whether it is as long as the trainings of the datasets' vectors together.
        datasets: Those that count.
        tokens: How many; None before the data are prepared, and where what is recorded does not say.
    """

    baseline: str
    equal: bool
    datasets: tuple[str, ...]
    tokens: int | None

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return asdict(self)


def budgets(plan: Plan) -> list[Budget]:
    """The budget of each mixture of a plan."""
    return [_budget(verdict, plan) for verdict in plan.verdicts.values() if verdict.action.kind.name == "mix"]


def _budget(verdict: Verdict, plan: Plan) -> Budget:
    action = verdict.action
    rows = mixed_rows(verdict, plan) if verdict.record is None else None
    tokens = rows.tokens if rows else None
    if verdict.record is not None:
        tokens = verdict.record.count("planned_tokens")
    return Budget(action.name.removeprefix("data:"), not action.params, tuple(action.groups), tokens)


def mixed_rows(verdict: Verdict, plan: Plan) -> Rows | None:
    """What a mixture that is not made yet will hold; None before its data are prepared."""
    action = verdict.action
    records = [plan.verdicts[t.at.action].record for t in action.takes if t.of == "data/train"]
    parts = [rows for record in records if record is not None and (rows := rows_of(record))]
    if len(parts) < len(action.groups):
        return None
    sizes = [Size(rows.rows, rows.tokens) for rows in parts]
    groups = list(action.groups.values())
    shares = token_shares(sizes, [group.get("share") for group in groups])
    if action.params:
        tokens = mixture_tokens(sizes, shares, Length(**action.params))
    else:
        tokens = math.fsum(_length(group).tokens(size) for group, size in zip(groups, sizes, strict=True))
    passes = [share * tokens / max(rows.tokens, 1) for share, rows in zip(shares, parts, strict=True)]
    return Rows(
        round(sum(n * part.rows for n, part in zip(passes, parts, strict=True))),
        round(tokens),
        round(sum(n * part.trained_tokens for n, part in zip(passes, parts, strict=True))),
        max(part.longest for part in parts if part.longest) if all(part.longest for part in parts) else None,
    )


def _length(group: JSON) -> Length:
    return Length(group["epochs"], group["sequences"], group["pack"])


def rows_of(record: Record) -> Rows | None:
    """What a dataset's or mixture's record says of its train split; None where it names no row."""
    names = ("rows", "tokens", "trained_tokens", "longest")
    rows, tokens, trained, longest = (record.count("splits", "train", n) for n in names)
    return Rows(rows, tokens, trained, longest) if rows and tokens and trained is not None else None
