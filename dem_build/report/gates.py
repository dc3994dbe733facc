"""Whether the composed model passes the recipe's gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.recipe.sections import BASE_REVISION
from dem_build.report.comparison import BASE, COMPOSED, difference, lower_is_better, subject
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.recipe import Gate
    from dem_build.report.results import Results

# 0.30 - 0.29 is above 0.01 in binary: a bound that is met exactly in decimals must not fail.
SLACK = 1e-9
MISSING = object()


@dataclass(frozen=True)
class GateResult:
    """One gate, judged.

    Attributes:
        value: What the composed model reached, None where nothing was measured.
        passed: Whether all of the gate's conditions hold, those that could be judged.
        why: The conditions that failed, or all of them where none did.
        judged: Whether any condition could be: what compares with the base revision is for `dem ci`.
    """

    task: str
    metric: str
    value: float | None
    passed: bool
    why: str
    judged: bool = True


@dataclass(frozen=True)
class Reference:
    """What the composed model of another revision reached.

    Attributes:
        value: The value; on the rows that both revisions have, where they differ.
        ours: This revision's value on the same rows.
        stderr: The standard error of the difference, None where that is unknown.
    """

    value: float
    ours: float
    stderr: float | None = None


@dataclass(frozen=True)
class _Condition:
    holds: bool | None  # None: for `dem ci` to judge
    text: str


def check(
    gates: Iterable[Gate],
    results: Results,
    before: Mapping[tuple[str, str], Reference | None] | None = None,
) -> list[GateResult]:
    """Judge each gate on the composed model; a value that was not measured, or is no number, fails.

    `max_drop` is in the metric's own units, against the model `against` (the base where none is named). It
    bounds how much *worse* the composed model may be: for a loss, how much higher. `margin` is added to it, in standard
    errors of the difference.

    Args:
        gates: The gates.
        results: What was measured.
        before: Task and metric → what the base revision's model reached, None where that revision does not ask for
            it. No mapping: nobody compares two revisions. In both cases gates against the base revision are not
            judged. What a mapping lacks should have been measured and was not, and fails.
    """
    return [_check(gate, results, before) for gate in gates]


def _check(
    gate: Gate, results: Results, before: Mapping[tuple[str, str], Reference | None] | None
) -> GateResult:
    value = results.value(COMPOSED, gate.task, gate.metric)
    if value is None:
        why = f"{COMPOSED} has no {gate.metric} on {subject(gate.task)}"
        return GateResult(gate.task, gate.metric, None, passed=False, why=why)
    conditions = _conditions(gate, value, results, before)
    failed = [c for c in conditions if c.holds is False]
    why = ", ".join(c.text for c in failed or conditions)
    judged = any(c.holds is not None for c in conditions)
    return GateResult(gate.task, gate.metric, value, passed=not failed, why=why, judged=judged)


def _conditions(
    gate: Gate, value: float, results: Results, before: Mapping[tuple[str, str], Reference | None] | None
) -> list[_Condition]:
    found = []
    if gate.min is not None:
        found.append(_Condition(value >= gate.min - SLACK, f"at least {gate.min:g}"))
    if gate.max is not None:
        found.append(_Condition(value <= gate.max + SLACK, f"at most {gate.max:g}"))
    if gate.max_drop is None and gate.margin is None:
        return found
    if gate.against == BASE_REVISION and before is None:
        found.append(_Condition(None, "compared with the base revision by `dem ci` alone"))
    elif gate.against == BASE_REVISION and before and before.get((gate.task, gate.metric), MISSING) is None:
        found.append(_Condition(None, "the base revision does not measure it"))
    else:
        found.append(_drop(gate, results, _reference(gate, value, results, before)))
    return found


def _reference(
    gate: Gate, value: float, results: Results, before: Mapping[tuple[str, str], Reference | None] | None
) -> Reference | None:
    if gate.against == BASE_REVISION:
        return before.get((gate.task, gate.metric)) if before else None
    against = gate.against or BASE
    theirs = results.value(against, gate.task, gate.metric)
    if theirs is None:
        return None
    apart = difference(results, gate.task, gate.metric, COMPOSED, against)
    return Reference(theirs, value, apart.stderr if apart else None)


def _drop(gate: Gate, results: Results, reference: Reference | None) -> _Condition:
    against = "the base revision" if gate.against == BASE_REVISION else gate.against or BASE
    if reference is None:
        return _Condition(
            holds=False, text=f"{against} has no {gate.metric} on {subject(gate.task)} to compare with"
        )
    lower = lower_is_better(results, gate.task, gate.metric)
    worse = reference.ours - reference.value if lower else reference.value - reference.ours
    limit = gate.max_drop or 0.0
    margin = (gate.margin or 0.0) * (reference.stderr or 0.0)
    direction = "above" if lower else "below"
    distance = f"at most {limit:g} {direction}" if limit else f"not {direction}"
    text = f"{distance} the {decimals(reference.value)} of {against}{_give(gate, reference.stderr)}"
    return _Condition(worse <= limit + margin + SLACK, text)


def _give(gate: Gate, stderr: float | None) -> str:
    """By how much a margin moves a bound, in words."""
    if not gate.margin:
        return ""
    if stderr is None:
        return " (its error is unknown: no margin)"
    return f" by more than {gate.margin:g} standard errors of {decimals(stderr)}"
