"""What was measured on held-out rows and tasks, model by model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.report.comparison import BASE, COMPOSED, LOSS_TASK, Trend, model_names, rows, subject
from dem_build.report.gains import clear, gains, mean, scales
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    Mark,
    Section,
    Span,
    Strip,
    Strips,
    Table,
    level,
    rival,
)
from dem_build.report.quantities import decimals, plus_minus, signed, with_error
from dem_build.report.verdict import measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.report.comparison import Measure, Row
    from dem_build.report.material import Material
    from dem_build.report.results import Results

__all__ = ["gain", "gates", "losses", "tasks"]

WORDS = {
    Trend.BETTER: "better",
    Trend.WORSE: "worse",
    Trend.NOISE: "no clear change",
    Trend.UNKNOWN: "error unknown",
}
ALONE = "alone"
MARKS = {BASE: "base", COMPOSED: "composed"}
LOST = 3  # the colour of a gate that failed
LEGEND = {"base": "base", "composed": "composed", ALONE: "the dataset's own vector, alone"}


def losses(material: Material) -> Section | None:
    """Test loss on datasets and probes: a picture against the base, then every model."""
    results = material.results
    found = [row for row in rows(results) if row.task.startswith(LOSS_TASK)]
    if not found:
        return None
    datasets = [row for row in found if row.subject not in results.probes]
    probes = [row for row in found if row.subject in results.probes]
    axis = _axis(results, found)
    blocks: list[Block] = [
        _strips(results, some, axis, caption)
        for some, caption in ((datasets, "Datasets"), (probes, _of_probes(results)))
        if some
    ]
    blocks.append(_table("Every model", results, found))
    lead = (
        "Loss on held-out test rows, in nats per token; less is better. Whiskers are one standard error. A change is "
        "composed minus base, its error paired by rows: it may be clear, with zero outside its 95 % interval, where "
        "whiskers overlap."
    )
    return Section("loss", "Test loss", lead, blocks)


def _of_probes(results: Results) -> str:
    """Return what probes are, and whether ω was searched with these rows in sight."""
    searched = results.tuning is not None and any(name in results.tuning.judges for name in results.probes)
    return "Probes: judged, never trained on" + (
        "; the search for ω reads these rows too" if searched else ""
    )


def _axis(results: Results, found: Sequence[Row]) -> Axis:
    """Return the axis that holds what is drawn, errors included."""
    measures = [v for row in found for m, v in row.measures.items() if _kind(results, m, row.subject)]
    return Axis.over(m.value + sign * (m.stderr or 0.0) for m in measures for sign in (-1, 1))


def _strips(results: Results, found: Sequence[Row], axis: Axis, caption: str) -> Strips:
    strips = [_strip(results, row, axis) for row in found]
    used = {mark.kind for strip in strips for mark in strip.marks}
    named = LEGEND | {rival(number): model for number, model in enumerate(_rivals(results))}
    legend = [(kind, words) for kind, words in named.items() if kind in used]
    return Strips(strips, axis, legend, caption)


def _strip(results: Results, row: Row, axis: Axis) -> Strip:
    shown = {m: v for m, v in row.measures.items() if _kind(results, m, row.subject)}
    measures = {m: v for m, v in shown.items() if math.isfinite(v.value)}
    old, new = measures.get(BASE), measures.get(COMPOSED)
    lanes = {model: 1 + number for number, model in enumerate(_rivals(results))}
    spans = [
        Span(f"whisker {_kind(results, m, row.subject)}", *_whisker(v, axis), lane=lanes.get(m, 0))
        for m, v in measures.items()
    ]
    if old and new:
        spans.insert(0, Span("path", axis.at(old.value), axis.at(new.value)))
    marks = [
        Mark(
            _kind(results, model, row.subject),
            axis.at(m.value),
            f"{model}: {measured(m)}",
            lanes.get(model, 0),
        )
        for model, m in sorted(measures.items(), key=lambda item: item[0] in MARKS)
    ]
    value, more, trend = _change(row)
    return Strip(row.subject, marks, spans, value, more, trend)


def _kind(results: Results, model: str, dataset: str) -> str:
    """Return how a model is drawn in the row of a dataset; nothing for the vectors of other datasets."""
    if model in MARKS:
        return MARKS[model]
    if model in results.vectors:
        return ALONE if model == dataset else ""
    return rival(_rivals(results).index(model))


def _rivals(results: Results) -> list[str]:
    """Return the models that have a mark and a lane of their own: the baselines."""
    return [name for name in model_names(results) if name not in MARKS and name not in results.vectors]


def _whisker(measure: Measure, axis: Axis) -> tuple[float, float]:
    error = measure.stderr or 0.0
    return axis.at(measure.value - error), axis.at(measure.value + error)


def _change(row: Row) -> tuple[str, str, str]:
    """Return a change, what it is worth in a word, and as a class."""
    change = row.change
    if change is None:
        return "", "", ""
    return with_error(signed(change.delta), change.stderr), WORDS[change.trend], change.trend.value


def _table(caption: str, results: Results, found: Sequence[Row]) -> Table:
    """Return models side by side, or below each other where they are more than what they were measured on.

    Colours tell the change against the base, of each measurement by its largest one.
    """
    names = model_names(results)
    with_metric = any(not row.task.startswith(LOSS_TASK) for row in found)
    measured_on = [[row.subject, *([row.metric] if with_metric else [])] for row in found]
    cells = [_cells(row, names) for row in found]
    note = "Blue is better than the base, orange worse; the largest change on each is deepest."
    if len(names) > len(found):
        header = ["model", *(" ".join(on) for on in measured_on)]
        body = [
            [Cell(_title(results, name), strong=name == COMPOSED), *of_model]
            for name, of_model in zip(names, zip(*cells, strict=True), strict=True)
        ]
        return Table(header, body, len(found), heat=True, caption=caption, note=note)
    header = ["on", *(["metric"] if with_metric else []), *(_title(results, n) for n in names)]
    body = [
        [Cell(on[0], strong=True), *map(Cell, on[1:]), *of_row]
        for on, of_row in zip(measured_on, cells, strict=True)
    ]
    return Table(header, body, len(names), heat=True, caption=caption, note=note)


def _title(results: Results, model: str) -> str:
    return f"{model} {ALONE}" if model in results.vectors else model


def _cells(row: Row, names: Sequence[str]) -> list[Cell]:
    base = row.measures.get(BASE)
    gained = {
        m: (v.value - base.value) * (-1 if row.lower_is_better else 1)
        for m, v in row.measures.items()
        if base is not None
    }
    most = max((abs(g) for g in gained.values() if math.isfinite(g)), default=0.0)
    return [_cell(row.measures.get(n), level(gained.get(n, 0.0), most), strong=n == COMPOSED) for n in names]


def _cell(measure: Measure | None, colour: int = 0, *, strong: bool = False) -> Cell:
    if measure is None:
        return NONE
    return Cell(decimals(measure.value), plus_minus(measure.stderr), colour, strong)


def gain(material: Material) -> Section | None:
    """Gain recovered of every model, where the vectors were evaluated alone."""
    results = material.results
    known = scales(results)
    if not known:
        return None
    found = {model: gains(results, model) for model in model_names(results) if model != BASE}
    header, strong = ["model", "mean", *known], clear(results)
    body = [
        [Cell(_title(results, model), strong=model == COMPOSED), *_gains(measures, list(known), strong)]
        for model, measures in found.items()
        if measures
    ]
    note = _too_little(results)
    lead = (
        "How much of what a dataset's own vector gains alone a model keeps: 0 is the base, 1 is that vector. "
        "Errors are standard errors of the difference to the base, paired by rows; the denominator is held fixed."
    )
    table = Table(header, body, len(known) + 1, heat=True, note=note)
    return Section("gain", "Gain recovered", lead, [table])


def _too_little(results: Results) -> str:
    """Return whose own vector gains too little for a gain recovered to say much; nothing where none does."""
    weak = [name for name, scale in scales(results).items() if scale.floored]
    if not weak:
        return ""
    return (
        f"Alone, the vector of {', '.join(weak)} gains less than two standard errors or a thousandth of the base's "
        "loss: figures there say little, and no mean has them."
    )


def _gains(measures: Mapping[str, Measure], names: Sequence[str], strong: Sequence[str]) -> list[Cell]:
    cells = [_gain(measures.get(name)) for name in names]
    whole = [_gain(mean(measures, strong))] if strong and all(n in measures for n in strong) else [NONE]
    return [*whole, *cells]


def _gain(measure: Measure | None) -> Cell:
    return _cell(measure, level(measure.value, 1.0) if measure else 0)


def tasks(material: Material) -> Section | None:
    """Tasks, every model."""
    found = [row for row in rows(material.results) if not row.task.startswith(LOSS_TASK)]
    if not found:
        return None
    pictures: list[Block] = []
    if len({row.metric for row in found}) == 1:
        pictures = [_strips(material.results, found, _axis(material.results, found), found[0].metric)]
    lead = (
        "Tasks of lm-eval, with standard errors. A change is composed minus base; its error is both errors together, "
        "as if independent."
    ) + (" That of an accuracy of 0 or 1 is Wilson's." if _is_bound(found) else "")
    changes = Table(
        ["task", "change"],
        [[Cell(row.subject, row.metric, strong=True), Cell(*_change(row)[:2])] for row in found],
        numbers=1,
        fits=True,
    )
    table = _table("Every model", material.results, found)
    return Section("tasks", "Tasks", lead, [*(pictures or [changes]), table])


def _is_bound(found: Sequence[Row]) -> bool:
    """Return whether some share is 0 or 1, whose error is not lm-eval's."""
    return any(m.value in (0.0, 1.0) and m.stderr for row in found for m in row.measures.values())


def gates(material: Material) -> Section | None:
    """Whether the composed model passes the recipe's gates."""
    if not material.gates:
        return None
    body = [
        [
            Cell(
                "✓ passed" if gate.passed else "✗ failed",
                level=0 if gate.passed else -LOST,
                strong=not gate.passed,
            ),
            Cell(subject(gate.task)),
            Cell(gate.metric),
            Cell(gate.why),
            Cell("not measured" if gate.value is None else decimals(gate.value)),
        ]
        for gate in material.gates
    ]
    table = Table(["gate", "on", "metric", "condition", "composed"], body, numbers=1, heat=True)
    return Section("gates", "Gates", "Conditions that decide the exit status of a build.", [table])
