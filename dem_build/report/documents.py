"""Plans, builds and failures as the JSON documents of `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from dem_build.errors import RecipeError
from dem_build.json_text import finite
from dem_build.report.comparison import STDERR, gains, measure_of
from dem_build.report.cost import spent
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dem_build.digest import JSON
    from dem_build.engine.outcome import Outcome, Result
    from dem_build.errors import DemError
    from dem_build.plan import Plan, Reason
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results


def plan_document(recipe: Path | str, plan: Plan) -> dict[str, JSON]:
    """The document of `dem plan --json`."""
    actions = [
        {
            "name": verdict.action.name,
            "kind": verdict.action.kind.family,
            "status": verdict.status.value,
            "reason": str(verdict.reason),
            "key": verdict.key,
            "inputs": [str(taken.at) for taken in verdict.action.takes],
            **_away(verdict.reason),
        }
        for verdict in plan.verdicts.values()
    ]
    absent = [
        {"action": action.name, "path": str(source.path), "sha256": source.digest}
        for action in plan.graph
        for source in action.sources
        if source.absent
    ]
    return {"recipe": str(recipe), "actions": actions, "absent": absent}


def _away(reason: Reason) -> dict[str, JSON]:
    """Of a result that is recorded elsewhere: where, and how much of it is not here."""
    away = reason.away
    return {} if away is None else {"not_here": {"from": away.where, "bytes": away.bytes}}


def build_document(
    recipe: Path | str,
    outcome: Outcome,
    model: Path | str | None,
    results: Results | None,
    gates: Iterable[GateResult] = (),
) -> dict[str, JSON]:
    """The document of `dem build --json`, of a failed build as well.

    Args:
        recipe: The recipe's file, as the user named it.
        outcome: What became of each action.
        model: The published model's folder, None where nothing was published.
        results: What the records say, None where they were not read.
        gates: The gates, judged.
    """
    actions = [_built(r) for r in outcome.results.values()]
    return {
        "recipe": str(recipe),
        "actions": actions,
        "model": None if model is None else str(model),
        "spent": spent(outcome).document(),
        **results_document(results, gates),
    }


def results_document(results: Results | None, gates: Iterable[GateResult] = ()) -> dict[str, JSON]:
    """What a build measured: `results.json`, and the second half of the build's document."""
    gates = list(gates)
    if results is None:
        return {"model_digest": None, "omega": {}, "results": {}, "gates": [_gate(g) for g in gates]}
    return {
        "model_digest": results.model_digest,
        "omega": dict(results.omega),
        **_sections(results),
        "results": {
            model: {task: {name: finite(v) for name, v in metrics.items()} for task, metrics in tasks.items()}
            for model, tasks in results.table.items()
        },
        **({"corrected_stderr": corrected} if (corrected := _corrected(results)) else {}),
        "gates": [_gate(g) for g in gates],
        **({"verdict": _verdict(results, gates)} if results.table else {}),
    }


def _sections(results: Results) -> dict[str, JSON]:
    """What not every build has; what this one has not is left out."""
    from dem_build.report.actions import READERS  # noqa: PLC0415  plans read nothing that actions found

    read = {reader: results.get(reader) for reader in READERS}
    found = {
        **{reader.key: reader.document(value) for reader, value in read.items() if value},
        "baselines": {name: baseline.document() for name, baseline in results.baselines.items()},
        "stages": {name: stage.document() for name, stage in results.stages.items()},
        "cost": results.cost.document() if results.cost.costs else None,
    }
    return {name: section for name, section in found.items() if section}


def failure_document(recipe: Path | str, error: DemError) -> dict[str, JSON]:
    """The document of a command that failed before it had a plan."""
    document: dict[str, JSON] = {"what": error.what, "where": error.where, "hint": error.hint}
    if isinstance(error, RecipeError):
        fields = ("file", "line", "key", "what", "hint")
        document["problems"] = [{name: getattr(p, name) for name in fields} for p in error.problems]
    return {"recipe": str(recipe), "actions": [], "error": document}


def _verdict(results: Results, gates: Iterable[GateResult]) -> dict[str, JSON]:
    verdict = judge(results, gates)
    recovered = {model: {n: asdict(m) for n, m in gains(results, model).items()} for model in results.table}
    return {
        "finding": verdict.finding.value,
        "headline": verdict.headline,
        **({"winner": verdict.winner} if verdict.winner else {}),
        "sentences": list(verdict.sentences),
        "gain_recovered": {model: found for model, found in recovered.items() if found},
    }


def _built(result: Result) -> dict[str, JSON]:
    document: dict[str, JSON] = {
        "name": result.action.name,
        "kind": result.action.kind.family,
        "status": result.status.value,
        "seconds": round(result.seconds, 3),
        "key": result.key,
    }
    if result.error is not None:
        document["error"] = str(result.error)
    return document | ({"note": result.note} if result.note else {})


def _gate(gate: GateResult) -> dict[str, JSON]:
    return {
        "task": gate.task,
        "metric": gate.metric,
        "value": finite(gate.value),
        "passed": gate.passed,
        "why": gate.why,
        **({} if gate.judged else {"judged": False}),
    }


def _corrected(results: Results) -> dict[str, JSON]:
    """The standard errors that are judged by in place of those that were recorded; see `stderr_of_share`."""
    found: dict[str, JSON] = {}
    for model, tasks in results.table.items():
        for task, metrics in tasks.items():
            for name in metrics:
                measure = measure_of(results, model, task, name)
                recorded = metrics.get(name + STDERR)
                if measure and measure.stderr is not None and measure.stderr != recorded:
                    found.setdefault(model, {}).setdefault(task, {})[name + STDERR] = measure.stderr
    return found
