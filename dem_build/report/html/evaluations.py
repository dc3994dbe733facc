"""What was measured on held-out rows and tasks, model by model, and what the baselines among these are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.actions.tune.read import read_tuning
from dem_build.report.comparison import (
    BASE,
    COMPOSED,
    LOSS_TASK,
    Trend,
    clear,
    gains,
    mean,
    model_names,
    rows,
    scales,
    subject,
)
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    DataTable,
    Mark,
    Notes,
    Section,
    Segment,
    Strip,
    Strips,
    level,
    rival,
)
from dem_build.report.quantities import count, decimals, plus_minus, signed, with_error
from dem_build.report.verdict import measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.report.comparison import Measurement, MetricRow
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.results import Results

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


def losses(inputs: ReportInputs) -> Section | None:
    """Test loss on datasets and probes: a picture against the base, then every model."""
    results = inputs.results
    found = [row for row in rows(results) if row.task.startswith(LOSS_TASK)]
    if not found:
        return None
    datasets = [row for row in found if row.subject not in results.probes]
    probes = [row for row in found if row.subject in results.probes]
    axis, tuning = _axis(results, found), results.get(read_tuning)
    seen = tuning is not None and any(name in tuning.judges for name in results.probes)
    of_probes = f"Probes: judged, never trained on{'; the search for ω reads these rows too' if seen else ''}"
    captions = ((datasets, "Datasets"), (probes, of_probes))
    blocks: list[Block] = [_strips(results, some, axis, caption) for some, caption in captions if some]
    blocks.append(_table("Every model", results, found))
    lead = (
        "Loss on held-out test rows, in nats per token; less is better. Whiskers are one standard error, over "
        "prompts: all rows of one count as one. A change is composed minus base, its error paired by rows: it may be "
        "clear, with zero outside its 95 % interval, where whiskers overlap."
    )
    return Section("loss", "Test loss", lead, blocks)


def _axis(results: Results, found: Sequence[MetricRow]) -> Axis:
    """The axis that holds what is drawn, errors included."""
    measures = [v for row in found for m, v in row.measures.items() if _kind(results, m, row.subject)]
    return Axis.over(m.value + sign * (m.stderr or 0.0) for m in measures for sign in (-1, 1))


def _strips(results: Results, found: Sequence[MetricRow], axis: Axis, caption: str) -> Strips:
    strips = [_strip(results, row, axis) for row in found]
    used = {mark.kind for strip in strips for mark in strip.marks}
    named = LEGEND | {rival(number): model for number, model in enumerate(_rivals(results))}
    legend = [(kind, words) for kind, words in named.items() if kind in used]
    return Strips(strips, axis, legend, caption)


def _strip(results: Results, row: MetricRow, axis: Axis) -> Strip:
    shown = {m: v for m, v in row.measures.items() if _kind(results, m, row.subject)}
    measures = {m: v for m, v in shown.items() if math.isfinite(v.value)}
    old, new = measures.get(BASE), measures.get(COMPOSED)
    lanes = {model: 1 + number for number, model in enumerate(_rivals(results))}
    spans = [
        Segment(
            f"whisker {_kind(results, m, row.subject)}",
            axis.at(v.value - (v.stderr or 0.0)),
            axis.at(v.value + (v.stderr or 0.0)),
            lane=lanes.get(m, 0),
        )
        for m, v in measures.items()
    ]
    # Drawn in their order: the way from base to composed lies under the whiskers, and these two over all other marks.
    if old and new:
        spans.insert(0, Segment("path", axis.at(old.value), axis.at(new.value)))
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
    """How a model is drawn in the row of a dataset; nothing for the vectors of other datasets."""
    if model in MARKS:
        return MARKS[model]
    if model in results.vectors:
        return ALONE if model == dataset else ""
    return rival(_rivals(results).index(model))


def _rivals(results: Results) -> list[str]:
    """The models that have a mark and a lane of their own: the baselines."""
    return [name for name in model_names(results) if name not in MARKS and name not in results.vectors]


def _change(row: MetricRow) -> tuple[str, str, str]:
    """A change, what it is worth in a word, and as a class."""
    change = row.change
    if change is None:
        return "", "", ""
    return with_error(signed(change.delta), change.stderr), WORDS[change.trend], change.trend.value


def _table(caption: str, results: Results, found: Sequence[MetricRow]) -> DataTable:
    """Models side by side, or below each other where they are more than what they were measured on.

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
        return DataTable(header, body, len(found), heat=True, caption=caption, note=note)
    header = ["on", *(["metric"] if with_metric else []), *(_title(results, n) for n in names)]
    body = [
        [Cell(on[0], strong=True), *map(Cell, on[1:]), *of_row]
        for on, of_row in zip(measured_on, cells, strict=True)
    ]
    return DataTable(header, body, len(names), heat=True, caption=caption, note=note)


def _title(results: Results, model: str) -> str:
    return f"{model} {ALONE}" if model in results.vectors else model


def _cells(row: MetricRow, names: Sequence[str]) -> list[Cell]:
    base = row.measures.get(BASE)
    gained = {
        m: (v.value - base.value) * (-1 if row.lower_is_better else 1)
        for m, v in row.measures.items()
        if base is not None
    }
    most = max((abs(g) for g in gained.values() if math.isfinite(g)), default=0.0)
    return [_cell(row.measures.get(n), level(gained.get(n, 0.0), most), strong=n == COMPOSED) for n in names]


def _cell(measure: Measurement | None, colour: int = 0, *, strong: bool = False) -> Cell:
    if measure is None:
        return NONE
    return Cell(decimals(measure.value), plus_minus(measure.stderr), colour, strong)


def gain(inputs: ReportInputs) -> Section | None:
    """Gain recovered of every model, where the vectors were evaluated alone."""
    results = inputs.results
    known, strong = scales(results), clear(results)
    if not known:
        return None

    def shown(measure: Measurement | None) -> Cell:
        return _cell(measure, level(measure.value, 1.0) if measure else 0)

    body = []
    for model in model_names(results):
        found = gains(results, model) if model != BASE else {}
        # A mean of some datasets is not to be compared with one of all.
        whole = mean(found, strong) if strong and all(name in found for name in strong) else None
        if found:
            name = Cell(_title(results, model), strong=model == COMPOSED)
            body.append([name, shown(whole), *(shown(found.get(dataset)) for dataset in known)])
    weak = ", ".join(name for name, scale in known.items() if scale.floored)
    note = (
        f"Alone, the vector of {weak} gains less than two standard errors or a thousandth of the base's loss: figures "
        "there say little, and no mean has them."
    )
    lead = (
        "How much of what a dataset's own vector gains alone a model keeps: 0 is the base, 1 is that vector. "
        "Errors are standard errors of the difference to the base, paired by rows; the denominator is held fixed."
    )
    header = ["model", "mean", *known]
    table = DataTable(header, body, len(known) + 1, heat=True, note=note if weak else "")
    return Section("gain", "Gain recovered", lead, [table])


def tasks(inputs: ReportInputs) -> Section | None:
    """Tasks, every model."""
    found = [row for row in rows(inputs.results) if not row.task.startswith(LOSS_TASK)]
    if not found:
        return None
    # The error of a share that is 0 or 1 is not lm-eval's.
    bound = any(m.value in (0.0, 1.0) and m.stderr for row in found for m in row.measures.values())
    pictures: list[Block] = []
    if len({row.metric for row in found}) == 1:
        pictures = [_strips(inputs.results, found, _axis(inputs.results, found), found[0].metric)]
    lead = (
        "Tasks of lm-eval, with standard errors. A change is composed minus base; its error is both errors together, "
        "as if independent."
    ) + (" That of an accuracy of 0 or 1 is Wilson's." if bound else "")
    changes = DataTable(
        ["task", "change"],
        [[Cell(row.subject, row.metric, strong=True), Cell(*_change(row)[:2])] for row in found],
        numbers=1,
        fits=True,
    )
    table = _table("Every model", inputs.results, found)
    return Section("tasks", "Tasks", lead, [*(pictures or [changes]), table])


def baselines(inputs: ReportInputs) -> Section | None:
    """Each baseline with its tokens and its ω, and what its search has to say."""
    found = inputs.results.baselines
    if not found:
        return None
    body = []
    for name, baseline in found.items():
        mixture = baseline.mixture
        shares = baseline.shares or ("vectors" if baseline.method != "mixing" else "")
        counts = (None, None) if mixture is None else (mixture.tokens, mixture.vectors)
        tokens = [NONE if number is None else Cell(count(number)) for number in counts]
        cells = [Cell(baseline.method), Cell(shares), Cell(baseline.weights), *tokens]
        body.append([Cell(name, strong=True), *cells])
    header = ["baseline", "method", "made of", "ω", "tokens", "vectors together"]
    note = (
        "Tokens are what the mixture's training read; of the vectors, what all their trainings read together."
    )
    lead = "Models that the same data could have been made into. How well they do is in the tables of losses and tasks."
    told = [f"{name}: {sentence}" for name, baseline in found.items() for sentence in baseline.told]
    blocks: list[Block] = [DataTable(header, body, 2, note=note)]
    return Section("baselines", "Baselines", lead, [*blocks, *([Notes(told)] if told else [])])


def gates(inputs: ReportInputs) -> Section | None:
    """Whether the composed model passes the recipe's gates."""
    if not inputs.gates:
        return None
    body = [
        [
            Cell(
                "✗ failed" if not gate.passed else "✓ passed" if gate.judged else "not judged",
                level=0 if gate.passed else -LOST,
                strong=not gate.passed,
            ),
            Cell(subject(gate.task)),
            Cell(gate.metric),
            Cell(gate.why),
            Cell("not measured" if gate.value is None else decimals(gate.value)),
        ]
        for gate in inputs.gates
    ]
    table = DataTable(["gate", "on", "metric", "condition", "composed"], body, numbers=1, heat=True)
    return Section("gates", "Gates", "Conditions that decide the exit status of a build.", [table])
