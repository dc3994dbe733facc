"""A short account of a build for a pull request: what ran, what changed, which gates passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.sample.read import read_samples
from dem_build.report.comparison import subject
from dem_build.report.cost import by_device, on_devices, spent
from dem_build.report.markdown import (
    baselines_list,
    code,
    escape,
    results_table,
    samples_table,
    stages_list,
    table,
)
from dem_build.report.quantities import decimals, duration
from dem_build.report.verdict import Finding, judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.engine.outcome import Outcome
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results


def summary(name: str, outcome: Outcome, results: Results, gates: Iterable[GateResult] = ()) -> str:
    """The summary of a build, as Markdown."""
    model = f" · model `{results.model_digest[:12]}`" if results.model_digest else ""
    omega = ", ".join(f"{escape(n)} {w:.4g}" for n, w in results.omega.items())
    omega += ", each the mean of its layers" if results.layers else ""
    judged = list(gates)
    parts = [
        f"### {escape(name)}{model}\n",
        _verdict(results, judged),
        _counts(outcome) + (f" · ω: {omega}" if omega else "") + "\n",
        _listed(
            f"- {code(r.action.name)} {duration(r.seconds)}" + (f", {escape(r.note)}" if r.note else "")
            for r in outcome.results.values()
            if r.status.value == "ran"
        ),
        _listed(f"- **failed** {code(r.action.name)}: {escape(str(r.error))}" for r in outcome.failed),
        stages_list(results) if results.stages else "",
        results_table(results) if results.table else "",
        baselines_list(results) if results.baselines else "",
        _gates(judged) if judged else "",
        _cost(outcome, results, judged),
        samples_table(samples) if (samples := results.get(read_samples)) else "",
    ]
    return "\n".join(part for part in parts if part)


def _verdict(results: Results, gates: list[GateResult]) -> str:
    verdict = judge(results, gates)
    if verdict.finding is Finding.UNKNOWN and not verdict.sentences:
        return ""
    return "\n".join(
        [f"**{escape(verdict.headline)}**\n", *(f"- {escape(s)}" for s in verdict.sentences), ""]
    )


def _counts(outcome: Outcome) -> str:
    """`3 ran, 12 cached`, and what failed or was skipped where something did."""
    words = {"ran": "ran", "hit": "cached", "failed": "failed", "skipped": "skipped"}
    statuses = [r.status.value for r in outcome.results.values()]
    found = [
        f"{statuses.count(s)} {word}" for s, word in words.items() if statuses.count(s) or s in ("ran", "hit")
    ]
    return ", ".join(found) + (", interrupted" if outcome.interrupted else "")


def _listed(lines: Iterable[str]) -> str:
    found = list(lines)
    return "\n".join([*found, ""]) if found else ""


def _cost(outcome: Outcome, results: Results, gates: list[GateResult]) -> str:
    """What this build spent, what all of it cost, and mixing's cost beside it."""
    total = by_device(results.cost.costs)
    if not total:
        return ""
    now = spent(outcome)
    this = on_devices(now.devices) if now.devices else "nothing"
    lines = [f"Cost: {on_devices(total)}, each result once, as it ran; this build: {this}"]
    lines[0] += f", and {duration(now.unfinished)} on what did not finish" if now.unfinished else ""
    mixing = results.cost.mixing
    told = mixing.sentences(judge(results, gates).winner) if mixing else ()
    return "\n".join(f"- {escape(line)}" for line in [*lines, *told, *results.cost.notes]) + "\n"


def _gates(gates: list[GateResult]) -> str:
    body = [
        [
            "✗" if not gate.passed else "✓" if gate.judged else "-",
            f"{escape(gate.metric)} on {escape(subject(gate.task))}",
            escape(gate.why),
            "" if gate.value is None else decimals(gate.value),
        ]
        for gate in gates
    ]
    return table(["", "gate", "condition", "value"], body, numbers=1)
