"""How the vectors were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.json_text import quantity
from dem_build.report.html.blocks import Axis, Lines, Panel, Section, Series
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.digest import JSON
    from dem_build.report.inputs import ReportInputs
    from dem_build.store import Record

__all__ = ["SECTIONS"]

LEGEND = (("faint", "training loss of each step"), ("strong", "validation loss"))
Point = tuple[float, float]


def curves(inputs: ReportInputs) -> Section | None:
    """The training and validation loss of everything that was trained."""
    named: dict[str, list[str]] = {}  # a training that several actions share ran once, and is drawn once
    for name, record in inputs.records.items():
        named.setdefault(record.key, []).append(name)
    panels = (
        _panel(", ".join(n.partition(":")[2] or n for n in names), inputs.records[names[0]])
        for names in named.values()
    )
    found = [panel for panel in panels if panel is not None]
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


def _panel(name: str, record: Record) -> Panel | None:
    trained = _points(record.noted("curve"))
    if not trained:
        return None
    validated = _points(record.noted("validation", "curve"))
    axis = Axis.over([y for _, y in (*trained, *validated)], pad=0.0)
    steps = max(x for x, _ in (*trained, *validated))
    series = [Series("faint", _placed(trained, steps, axis))]
    if validated:
        series.append(Series("strong", _placed(validated, steps, axis), dots=len(validated) <= 40))
    # Weights that were kept and are not the last; a thinned curve may lack their step.
    kept = quantity(record.noted("validation", "kept_step"))
    step, lowest = (quantity(record.noted("validation", "lowest", name)) for name in ("step", "loss"))
    early = (step, lowest) if step is not None and lowest is not None and kept == step < steps else None
    _, loss = early or (validated or trained)[-1]
    value = f"{'validation' if validated else 'loss'} {decimals(loss)}"
    ends = decimals(axis.high), decimals(axis.low), "step 1", f"{steps:g}"
    return Panel(name, value, series, *ends, here=_along(steps).at(early[0]) if early else None)


def _points(curve: JSON) -> list[Point]:
    """(step, loss) of a recorded curve, whose entries may say more."""
    entries = curve if isinstance(curve, list) else []
    numbers = [(quantity(e[0]), quantity(e[1])) for e in entries if isinstance(e, list) and len(e) > 1]
    return [(x, y) for x, y in numbers if x is not None and y is not None]


def _placed(points: Sequence[Point], steps: float, axis: Axis) -> list[Point]:
    along = _along(steps)
    return [(along.at(x), axis.down(y)) for x, y in points]


def _along(steps: float) -> Axis:
    return Axis(1.0, steps) if steps > 1 else Axis(0.0, 1.0)


SECTIONS = (curves,)
