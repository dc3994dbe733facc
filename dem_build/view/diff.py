"""Two sides, side by side, for people: keys and their causes, ω, metrics, weights, cost and gates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.compare import Basis, Standing
from dem_build.report import quantities
from dem_build.report.comparison import Trend, subject
from dem_build.report.cost import on_devices
from dem_build.report.text import joined
from dem_build.view.results import TREND_STYLES
from dem_build.view.text import MARKS, STYLES, columns, hang, say, shorten
from dem_build.wording import counted, first_of, together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from dem_build.compare import CauseOfChange, GateChange, MetricChange, SideBySide, SideCost
    from dem_build.compare.weights import WeightsChange
    from dem_build.report.gates import GateResult

NAMES_SHOWN = 6
LAYERS_SHOWN = 5
NARROW, WIDE = 100, 28
WORTH = {Trend.BETTER: "better", Trend.WORSE: "worse", Trend.NOISE: "", Trend.UNKNOWN: "unknown"}


def diff_lines(
    comparison: SideBySide, weights: WeightsChange | None, console: Console, *, same: bool
) -> None:
    """Print a comparison.

    Args:
        comparison: What was compared.
        weights: How far the weights of two models are apart, where they were read.
        console: Where to.
        same: Whether nothing differs at all.
    """
    say(console, (f"{joined(comparison.before)} → {joined(comparison.after)}", "bold"))
    if same:
        say(console, (f"{MARKS['ran']} ", "green"), _same_line(comparison, weights))
    _key_lines(comparison, console)
    _omega_lines(comparison, console)
    _metric_lines(comparison.metrics, console)
    if weights is not None and not weights.same:
        _weight_lines(weights, console)
    _cost_lines(comparison.costs, console)
    _gate_lines(comparison.gates, console)


def _same_line(comparison: SideBySide, weights: WeightsChange | None) -> str:
    if comparison.keys.changes:
        return "the same: every action has the key that it had"
    return "the same results" + (" and the same weights" if weights is not None else "")


def _key_lines(comparison: SideBySide, console: Console) -> None:
    changes = comparison.keys.changes
    if not changes:
        return
    counts = [(s, len(comparison.keys.of(s))) for s in Standing]
    parts = [f"{count} {standing.value}" for standing, count in counts if count]
    hang(console, Text("keys   "), Text(f"{counted(len(changes), 'action')}: {', '.join(parts)}"))
    for old, new in comparison.keys.names.renamed.items():
        hang(console, Text("  =", "cyan"), Text(f"{joined(old)} is called {joined(new)} now", "dim"))
    for reason in comparison.reasons:
        hang(console, Text("  •", "cyan"), _reason(reason))


def _reason(reason: CauseOfChange) -> Text:
    causes = [joined(cause.text) for cause in reason.causes]
    head = causes[0] if len(causes) == 1 else f"both: {' and '.join(causes)}"
    head = head if len(causes) < 3 else f"all of: {'; '.join(causes)}"
    changed = ", ".join(_named(reason.changed))
    follow = together(_named(reason.follow))
    verb = "follows" if len(reason.follow) == 1 else "follow"
    told = "; ".join(filter(None, [changed, f"{follow} {verb}" if reason.follow else ""]))
    return Text.assemble(head, (f": {told}", "dim"))


def _named(names: Sequence[str]) -> list[str]:
    """Names of actions; evaluations are counted where there are more than two."""
    evaluations = [n for n in names if n.partition(":")[0] in ("loss", "eval", "sample")]
    others = [joined(n) for n in names if n not in evaluations]
    counted = [f"{len(evaluations)} evaluations"] if len(evaluations) > 2 else [*map(joined, evaluations)]
    more = len(others) - NAMES_SHOWN
    return [*others[:NAMES_SHOWN], *([f"{more} more"] if more > 0 else []), *counted]


def _omega_lines(comparison: SideBySide, console: Console) -> None:
    if not comparison.omega or all(o.before == o.after and o.was is None for o in comparison.omega):
        return
    table = columns("ω", "before", "after", "change")
    for one in comparison.omega:
        known = one.before is not None and one.after is not None
        delta = one.after - one.before if one.after is not None and one.before is not None else 0.0
        table.add_row(
            shorten(joined(one.vector), WIDE),
            *(_value(value) for value in (one.before, one.after)),
            quantities.signed(delta) if known and delta else "",
        )
    console.print()
    console.print(table)


def _value(value: float | None) -> str:
    return "-" if value is None else quantities.decimals(value)


def _metric_lines(metrics: Sequence[MetricChange], console: Console) -> None:
    shown = [m for m in metrics if m.basis is not Basis.SAME and not m.same_model]
    for model in dict.fromkeys(m.model for m in shown):
        console.print()
        console.print(_metric_table(model, [m for m in shown if m.model == model], console.width))
    if any(m.corrected is not None for m in shown):
        paired = "Δ ± its standard error, over the rows of both; p after Holm's correction over all metrics, at 5 %"
        say(console, (paired, "dim"))
    for note, of in _notes(shown):
        say(console, ("note: ", "yellow"), f"{of}: {joined(note)}")
    count = len(metrics) - len(shown)
    if count and shown:
        word = "metric is" if count == 1 else "metrics are"
        say(console, (f"{count} {word} of the same evaluations or the same model as before", "dim"))


def _metric_table(model: str, metrics: Sequence[MetricChange], width: int) -> Table:
    labels = WIDE if width >= NARROW else 12
    table = columns(shorten(joined(model), labels), "metric", "before", "after", "Δ", "p", "is", "pairs")
    table.columns[1].justify = table.columns[6].justify = "left"
    for one in metrics:
        table.add_row(
            shorten(joined(subject(one.task)), labels),
            Text(shorten(joined(one.metric), labels), "dim"),
            _value(_shown(one.before.value if one.before else None, one.common_before)),
            _value(_shown(one.after.value if one.after else None, one.common_after)),
            _delta(one),
            "" if one.corrected is None else _probability(one.corrected),
            Text(WORTH[one.trend] if one.change else "", TREND_STYLES[one.trend]),
            "" if one.change is None else str(one.rows.common) if one.rows else "none",
        )
    return table


def _shown(recorded: float | None, common: float | None) -> float | None:
    """The value of what both sides have, where that is known: what a change is taken from."""
    return recorded if common is None else common


def _delta(one: MetricChange) -> Text:
    if one.change is None:
        return Text("-", "dim")
    style = TREND_STYLES[one.trend]
    shown = quantities.signed(one.change.delta)
    error = f" {quantities.plus_minus(one.change.stderr)}" if one.change.stderr is not None else ""
    return Text.assemble((shown, style), (error, "dim"))


def _probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def _notes(metrics: Sequence[MetricChange]) -> Iterator[tuple[str, str]]:
    """Yield each note once, with what it is said of."""
    said: dict[str, list[str]] = {}
    for one in metrics:
        if one.note:
            name = f"{joined(subject(one.task))} {joined(one.metric)}"
            said.setdefault(one.note, [])
            said[one.note] += [name] if name not in said[one.note] else []
    for note, names in said.items():
        yield note, first_of(names, NAMES_SHOWN)


def _weight_lines(weights: WeightsChange, console: Console) -> None:
    changed = [layer for layer in weights.layers if layer.changed]
    tensors = sum(layer.tensors for layer in weights.layers)
    text = f"{sum(layer.changed for layer in changed)} of {tensors} tensors differ"
    if math.isfinite(weights.norm) and weights.norm > 0:
        text += f", by {_share(weights.distance, weights.norm)} of the first model's norm"
    console.print()
    hang(console, Text("weights"), Text(text))
    for layer in sorted(changed, key=lambda one: -one.distance)[:LAYERS_SHOWN]:
        name = f"layer {layer.layer}" if layer.layer.isdigit() else layer.layer
        told = f"{joined(name)}: {layer.changed} of {layer.tensors} tensors, {_share(layer.distance, layer.norm)}"
        hang(console, Text("  •", "cyan"), Text(told, "dim"))
    for what, names in (
        ("the first model alone has", weights.only_before),
        ("the second model alone has", weights.only_after),
        ("of another shape or kind", weights.reshaped),
    ):
        if names:
            listed = first_of(map(joined, names), NAMES_SHOWN)
            hang(console, Text("  •", "cyan"), Text(f"{what}: {listed}", "dim"))


def _share(distance: float, norm: float) -> str:
    if not norm or not math.isfinite(distance / norm):
        return "an unknown share"
    return f"{100 * distance / norm:.2g} %"


def _cost_lines(costs: tuple[SideCost, SideCost], console: Console) -> None:
    told = [_cost(cost) for cost in costs]
    if not any(told):
        return
    console.print()
    for word, text in zip(("before", "after"), told, strict=True):
        if text:
            hang(console, Text(f"cost {word:<6}"), Text(text))


def _cost(cost: SideCost) -> str:
    parts = []
    if cost.recorded:
        own = f", {on_devices(cost.own)} of that for what differs" if cost.own else ""
        parts.append(f"{on_devices(cost.recorded)}{own}")
    if cost.due:
        known = cost.due - cost.unknown
        time = f"about {quantities.duration(cost.expected)}" if known else "an unknown time"
        more = f" and an unknown time for {cost.unknown} of them" if known and cost.unknown else ""
        parts.append(f"{counted(cost.due, 'action')} {'is' if cost.due == 1 else 'are'} due: {time}{more}")
    return joined("; ".join(parts))


def _gate_lines(gates: Sequence[GateChange], console: Console) -> None:
    if gates:
        console.print()
    for gate in gates:
        after = gate.after
        status = "skipped" if after is None or after.value is None else "ran" if after.passed else "failed"
        name = f"gate {joined(gate.metric)} on {joined(subject(gate.task))}: "
        was = "" if gate.before == after else f" (before: {_judged(gate.before)})"
        say(console, (f"{MARKS[status]} ", STYLES[status]), name, _judged(after), (was, "dim"))


def _judged(gate: GateResult | None) -> str:
    if gate is None:
        return "no such gate"
    if gate.value is None:
        return "not measured"
    verdict = joined(gate.why) if gate.passed else f"must be {joined(gate.why)}"
    return f"{quantities.decimals(gate.value)}, {verdict}"
