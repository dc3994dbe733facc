"""Whether the composed model passes the recipe's gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.report.comparison import BASE, COMPOSED, lower_is_better, subject
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.recipe import Gate
    from dem_build.report.results import Results

__all__ = ["GateResult", "check"]

# 0.30 - 0.29 is above 0.01 in binary: a bound that is met exactly in decimals must not fail.
SLACK = 1e-9


@dataclass(frozen=True)
class GateResult:
    """One gate, judged.

    Attributes:
        task: The task.
        metric: The metric.
        value: What the composed model reached, None where nothing was measured.
        passed: Whether all of the gate's conditions hold.
        why: The conditions that failed, or all of them where none did.
    """

    task: str
    metric: str
    value: float | None
    passed: bool
    why: str


@dataclass(frozen=True)
class _Condition:
    holds: bool
    text: str


def check(gates: Iterable[Gate], results: Results) -> list[GateResult]:
    """Judge each gate on the composed model; a value that was not measured, or is no number, fails.

    `max_drop` is in the metric's own units, against the model `against` (the base where none is named). It
    bounds how much *worse* the composed model may be: for a loss, how much higher.
    """
    return [_check(gate, results) for gate in gates]


def _check(gate: Gate, results: Results) -> GateResult:
    value = results.value(COMPOSED, gate.task, gate.metric)
    if value is None:
        why = f"{COMPOSED} has no {gate.metric} on {subject(gate.task)}"
        return GateResult(gate.task, gate.metric, None, passed=False, why=why)
    conditions = _conditions(gate, value, results)
    failed = [c for c in conditions if not c.holds]
    why = ", ".join(c.text for c in failed or conditions)
    return GateResult(gate.task, gate.metric, value, passed=not failed, why=why)


def _conditions(gate: Gate, value: float, results: Results) -> list[_Condition]:
    found = []
    if gate.min is not None:
        found.append(_Condition(value >= gate.min - SLACK, f"at least {gate.min:g}"))
    if gate.max is not None:
        found.append(_Condition(value <= gate.max + SLACK, f"at most {gate.max:g}"))
    if gate.max_drop is not None:
        found.append(_drop(gate, gate.max_drop, value, results))
    return found


def _drop(gate: Gate, limit: float, value: float, results: Results) -> _Condition:
    against = gate.against or BASE
    reference = results.value(against, gate.task, gate.metric)
    if reference is None:
        return _Condition(
            holds=False, text=f"{against} has no {gate.metric} on {subject(gate.task)} to compare with"
        )
    lower = lower_is_better(results, gate.task, gate.metric)
    worse = value - reference if lower else reference - value
    direction = "above" if lower else "below"
    distance = f"at most {limit:g} {direction}" if limit else f"not {direction}"
    text = f"{distance} the {decimals(reference)} of {against}"
    return _Condition(worse <= limit + SLACK, text)
