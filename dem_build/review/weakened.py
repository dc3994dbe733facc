"""Gates of the base revision that the head asks less of, or nothing, and whether the head passes them as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.json_text import finite
from dem_build.report.comparison import BASE, subject
from dem_build.report.gates import check
from dem_build.review.document import Weakened, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dem_build.recipe import Gate
    from dem_build.report.gates import Reference
    from dem_build.report.results import Results


def weakened(
    before: Sequence[Gate],
    after: Sequence[Gate],
    renamed: Callable[[str], str],
    measured: tuple[Results, Mapping[tuple[str, str], Reference | None] | None] | None,
    line_of: Callable[[int], int],
) -> list[Weakened]:
    """The gates of the base revision that no gate of the head is as strict as.

    Args:
        before: The base revision's gates.
        after: The head's.
        renamed: What a task of the base revision is called at the head.
        measured: What the head measured, and what the base revision reached (`gates.check`); None: it is not built.
        line_of: The line of a gate of the head, by its number.
    """
    found = []
    for old in (gate.model_copy(update={"task": renamed(gate.task)}) for gate in before):
        peers = [(i, g) for i, g in enumerate(after) if (g.task, g.metric) == (old.task, old.metric)]
        if all(any(_implies(new, *bound) for _, new in peers) for bound in _bounds(old)):
            continue
        value, passed, why = None, None, "not built yet"
        if measured is not None:
            (judged,) = check([old], *measured)
            value, passed = finite(judged.value), judged.passed if judged.judged else None
            why = judged.why
        found.append(
            Weakened(
                gate=shown(f"{old.metric} on {subject(old.task)}", 1000),
                how="loosened" if peers else "removed",
                was=shown(bounds(old)),
                now=shown("; ".join(bounds(gate) for _, gate in peers)),
                line=line_of(peers[0][0]) if peers else 0,
                value=value,
                passed=passed,
                why=shown(why),
            )
        )
    return found


def bounds(gate: Gate) -> str:
    """What a gate asks, in words."""
    told = [f"at least {gate.min:g}"] if gate.min is not None else []
    told += [f"at most {gate.max:g}"] if gate.max is not None else []
    if gate.max_drop is not None or gate.margin is not None:
        margin = f" and {gate.margin:g} standard errors" if gate.margin else ""
        told.append(f"no worse than {gate.against or BASE} by more than {gate.max_drop or 0.0:g}{margin}")
    return ", ".join(told)


def _bounds(gate: Gate) -> list[tuple[str, float, float, str]]:
    """Each bound of a gate: which one, how far, its margin, and against whom."""
    found = [("min", gate.min, 0.0, "")] if gate.min is not None else []
    found += [("max", gate.max, 0.0, "")] if gate.max is not None else []
    if gate.max_drop is not None or gate.margin is not None:
        found.append(("drop", gate.max_drop or 0.0, gate.margin or 0.0, gate.against or BASE))
    return found


def _implies(new: Gate, which: str, limit: float, margin: float, against: str) -> bool:
    """Whether what passes a gate keeps a bound, too."""
    for kind, value, give, of in _bounds(new):
        if kind != which or of != against:
            continue
        if value >= limit if kind == "min" else (value <= limit and give <= margin):
            return True
    return False
