"""The end of a build: models side by side, gates, what ran, what was cached, where the model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.report import comparison, quantities
from dem_build.report.comparison import BASE, COMPOSED, Trend
from dem_build.report.cost import by_device, on_devices
from dem_build.report.mixing_cost import times
from dem_build.report.text import joined
from dem_build.report.verdict import judge
from dem_build.view.text import MARKS, STYLES, hang, say, shorten
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from rich.console import Console
    from rich.table import Table

    from dem_build.engine.outcome import Outcome
    from dem_build.report.baselines import RecordedBaseline
    from dem_build.report.comparison import Measurement, MetricRow
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results
    from dem_build.report.stages import Stage
    from dem_build.report.text import Line

TREND_STYLES = {Trend.BETTER: "green", Trend.WORSE: "red", Trend.NOISE: "dim", Trend.UNKNOWN: ""}
GAP = 3
SUBJECT_WIDTH = 28
NAMES_SHOWN = 6


def say_lines(lines: Iterable[Line], console: Console) -> None:
    """Print what an action's own view says (`actions/*/show.py`)."""
    for line in lines:
        say(console, *line)


def result_table(results: Results, gates: Iterable[GateResult], console: Console) -> None:
    """Print what each model reached on each dataset and task, then the gates.

    Models that do not fit beside base and composed follow in tables of their own.
    """
    found = comparison.rows(results)
    if found:
        # The width of a column is told by all of its rows, so it is taken once and not for each of them.
        errors = {model: _error_width(found, model) for model in comparison.model_names(results)}
        for models in _fitting(found, errors, console.width):
            console.print()
            console.print(_table(found, models, errors))
        if any(m.stderr is not None for row in found for m in row.measures.values()):
            coloured = console.color_system is not None and not console.no_color
            say(console, (f"± standard error{_clear(found, coloured=coloured)}", "dim"))
    for group, tasks in comparison.folded(results).items():
        say(console, (f"{joined(group)}: of {len(tasks)} tasks, which `results.json` has one by one", "dim"))
    judged = list(gates)
    if judged:
        console.print()
    for gate in judged:
        _gate(gate, console)


def _clear(found: Sequence[MetricRow], *, coloured: bool) -> str:
    """Say which changes are clear: by their colour, or where there is none by the names of the others."""
    if not any(row.change for row in found):
        return ""
    if coloured:
        return "; a coloured change has zero outside its 95 % interval"
    told = {
        "not clear, zero is in the 95 % interval": _changed(found, Trend.NOISE),
        "error unknown": _changed(found, Trend.UNKNOWN),
    }
    some = [f"; {words}: {names}" for words, names in told.items() if names]
    return "".join(some) or "; every change has zero outside its 95 % interval"


def _changed(found: Sequence[MetricRow], trend: Trend) -> str:
    """The names of the rows whose change has a trend."""
    names = [
        f"{_subject(row)} {joined(row.metric)}" for row in found if row.change and row.change.trend is trend
    ]
    return first_of(names, NAMES_SHOWN)


def baseline_lines(baselines: Mapping[str, RecordedBaseline], console: Console) -> None:
    """Print a line for each baseline: what it is, its tokens and its ω; then what its search has to say."""
    if baselines:
        console.print()
    for name, contender in baselines.items():
        parts = [contender.method, *contender.sentences()]
        say(console, f"baseline {joined(name)}  ", (joined("; ".join(parts)), "dim"))
        for sentence in contender.told:
            say(console, ("note: ", "yellow"), joined(f"baseline {name}: {sentence}"))


def stage_lines(stages: Mapping[str, Stage], console: Console) -> None:
    """Print a line for trunk and healing each: what it is trained on."""
    if stages:
        console.print()
    for stage in stages.values():
        say(console, f"{stage.name}  ", (joined(stage.short), "dim"))


def closing_lines(
    outcome: Outcome,
    results: Results | None,
    model: Path | str | None,
    console: Console,
    report: Path | str | None = None,
) -> None:
    """Print what was cached, what ran, what failed, what it cost, and where the model and its report are."""
    console.print()
    names: dict[str, list[str]] = {}
    for result in outcome.results.values():
        names.setdefault(result.status.value, []).append(joined(result.action.name))
    seconds = sum(r.seconds for r in outcome.results.values() if r.status.value == "ran")
    _group("cached", "hit", names.get("hit", []), "", console)
    _group("ran", "ran", names.get("ran", []), f", {quantities.duration(seconds)} of work", console)
    _group("failed", "failed", names.get("failed", []), "", console)
    _group("skipped", "skipped", names.get("skipped", []), "", console)
    if results is not None:
        cost_line(results, console)
    if outcome.interrupted:
        say(console, ("interrupted: the next build goes on from here", "yellow"))
    if model is not None:
        digest = f"  sha256 {results.model_digest[:12]}" if results and results.model_digest else ""
        # Not wrapped: a path is to be copied.
        console.print(Text.assemble("model    ", (here(model), "bold"), (digest, "dim")), soft_wrap=True)
    if report is not None:
        console.print(Text.assemble("report   ", (here(report), "bold")), soft_wrap=True)


def cost_line(results: Results, console: Console) -> None:
    """Print what everything cost when it ran, and what mixing costs instead."""
    total = by_device(results.cost.costs)
    if not total:
        return
    against = ""
    if mixing := results.cost.mixing:
        some = f"{mixing.count - mixing.trained} of them " if mixing.trained else ""
        projected = f" ({some}projected)" if mixing.trained < mixing.count else ""
        against = (
            f": DEM {quantities.duration(mixing.dem.total)}, "
            f"{mixing.named} {quantities.duration(mixing.all.total)}{projected}, {times(mixing.ratio)} times as much"
        )
        # Of several mixtures the sum is said above; the one that won is said by itself, too.
        winner = judge(results).winner if len(mixing.each) > 1 else None
        if winner is not None and (way := mixing.each.get(winner)) is not None:
            against += f"; {winner}, which won, {quantities.duration(way.total)}, {times(mixing.times_dem(way))} times"
    hang(console, Text("cost   "), Text.assemble(joined(on_devices(total)), (joined(against), "dim")))


def remaining_warnings(
    results: Results, console: Console, shown: AbstractSet[tuple[str, str]] = frozenset()
) -> None:
    """Print the warnings that results carry from earlier runs: all that are not in `shown`."""
    for action, text in results.warnings:
        if (action, joined(text)) not in shown:
            say(console, ("warning: ", "yellow"), (f"{joined(action)}: ", "dim"), joined(text))


def here(path: Path | str) -> str:
    """A path relative to where the user is, if it lies there."""
    given, folder = Path(path), Path.cwd()
    return joined(given.relative_to(folder) if given.is_relative_to(folder) else given)


def _group(word: str, status: str, names: Sequence[str], more: str, console: Console) -> None:
    if names or status in ("hit", "ran"):
        listed = f": {first_of(names, NAMES_SHOWN)}" if names and status != "hit" else ""
        body = Text.assemble(f"{len(names)}{more if names else ''}", (listed, "dim"))
        hang(console, Text(f"{word:<7}", STYLES[status]), body)


def _gate(gate: GateResult, console: Console) -> None:
    status = "failed" if not gate.passed else "ran" if gate.judged else "skipped"
    value = "not measured" if gate.value is None else quantities.decimals(gate.value)
    name = f"gate {joined(gate.metric)} on {joined(comparison.subject(gate.task))}: "
    must = joined(gate.why) if gate.passed or gate.value is None else f"must be {joined(gate.why)}"
    say(console, (f"{MARKS[status]} ", STYLES[status]), name, (value, "bold"), (f", {must}", "dim"))


def _fitting(found: Sequence[MetricRow], errors: Mapping[str, int], width: int) -> list[list[str]]:
    """Divide models, each with the width of its errors, among as few tables as fit; base and composed stay together."""
    models = list(errors)
    labels = max(len(_subject(r)) for r in found) + max(len(joined(r.metric)) for r in found) + 2 * GAP
    groups: list[list[str]] = [[m for m in models if m in (BASE, COMPOSED)]]
    used = labels + sum(_column_width(found, m, errors[m]) for m in groups[0]) + len("+12.345") + GAP
    for model in models[len(groups[0]) :]:
        used += _column_width(found, model, errors[model])
        if used > width and groups[-1]:
            groups.append([])
            used = labels + _column_width(found, model, errors[model])
        groups[-1].append(model)
    return groups


def _column_width(found: Sequence[MetricRow], model: str, error_width: int) -> int:
    cells = [_measured(row.measures.get(model), error_width) for row in found]
    return max(len(joined(model)), *(len(c) for c in cells)) + GAP


def _table(found: Sequence[MetricRow], models: Sequence[str], errors: Mapping[str, int]) -> Table:
    from rich.table import Table  # noqa: PLC0415  # a build that evaluates nothing prints no table

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    table.add_column("on", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for model in models:
        table.add_column(
            Text(joined(model), "bold" if model == COMPOSED else ""), justify="right", no_wrap=True
        )
        if model == COMPOSED and BASE in models:
            table.add_column("change", justify="right", no_wrap=True)
    for row in found:
        table.add_row(Text(_subject(row)), Text(joined(row.metric), "dim"), *_row_cells(row, models, errors))
    return table


def _row_cells(row: MetricRow, models: Sequence[str], errors: Mapping[str, int]) -> list[Text]:
    cells = []
    for model in models:
        cells.append(_measured(row.measures.get(model), errors[model], bold=model == COMPOSED))
        if model == COMPOSED and BASE in models:
            change = row.change
            cells.append(
                Text(quantities.signed(change.delta), TREND_STYLES[change.trend]) if change else Text("")
            )
    return cells


def _subject(row: MetricRow) -> str:
    return shorten(joined(row.subject), SUBJECT_WIDTH)


def _error(measure: Measurement | None) -> str:
    return "" if measure is None else quantities.with_error("", measure.stderr)


def _error_width(found: Sequence[MetricRow], model: str) -> int:
    return max(len(_error(row.measures.get(model))) for row in found)


def _measured(measure: Measurement | None, error_width: int, *, bold: bool = False) -> Text:
    """A value and its error, padded so that values stand in one column."""
    if measure is None:
        return Text("-" + " " * error_width, "dim")
    value = (quantities.decimals(measure.value), "bold" if bold else "")
    return Text.assemble(value, (f"{_error(measure):<{error_width}}", "dim"))
