"""How the vectors were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.finetune.read import curves_of
from dem_build.report.html.blocks import Axis, Lines, Panel, Section, Series
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.actions.finetune.read import TrainingCurve
    from dem_build.report.inputs import ReportInputs

LEGEND = (("faint", "training loss of each step"), ("strong", "validation loss"))
Point = tuple[float, float]


def curves(inputs: ReportInputs) -> Section | None:
    """The training and validation loss of everything that was trained."""
    found = [_panel(curve) for curve in curves_of(inputs.records)]
    if not found:
        return None
    validated = any(len(panel.series) > 1 for panel in found)
    legend = LEGEND if validated else LEGEND[:1]
    lead = "Loss in nats per token by optimizer step. Each chart has an axis of its own." + (
        " The weights are those at the dashed line, else those of the last step."
        if any(p.here is not None for p in found)
        else ""
    )
    return Section("curves", "Training", lead, [Lines(found, legend)])


def _panel(curve: TrainingCurve) -> Panel:
    trained, validated, steps = curve.trained, curve.validated, curve.steps
    axis = Axis.over([y for _, y in (*trained, *validated)], pad=0.0)
    series = [Series("faint", _placed(trained, steps, axis))]
    if validated:
        series.append(Series("strong", _placed(validated, steps, axis), dots=len(validated) <= 40))
    _, loss = curve.kept or (validated or trained)[-1]
    value = f"{'validation' if validated else 'loss'} {decimals(loss)}"
    ends = decimals(axis.high), decimals(axis.low), "step 1", f"{steps:g}"
    name = ", ".join(n.partition(":")[2] or n for n in curve.names)
    return Panel(name, value, series, *ends, here=_along(steps).at(curve.kept[0]) if curve.kept else None)


def _placed(points: Sequence[Point], steps: float, axis: Axis) -> list[Point]:
    along = _along(steps)
    return [(along.at(x), axis.down(y)) for x, y in points]


def _along(steps: float) -> Axis:
    return Axis(1.0, steps) if steps > 1 else Axis(0.0, 1.0)


SECTIONS = (curves,)
