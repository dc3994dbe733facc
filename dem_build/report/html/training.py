"""How the vectors were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.json_text import quantity
from dem_build.report.html.blocks import Axis, Lines, Panel, Section, Series
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.digest import JSON
    from dem_build.report.material import Material
    from dem_build.store import Record

__all__ = ["curves"]

LEGEND = (("faint", "training loss of each step"), ("strong", "validation loss"))
Point = tuple[float, float]


def curves(material: Material) -> Section | None:
    """The training and validation loss of everything that was trained."""
    found = {
        name: panel
        for name, record in material.records.items()
        if (panel := _panel(name.partition(":")[2] or name, record)) is not None
    }
    if not found:
        return None
    validated = any(len(panel.series) > 1 for panel in found.values())
    legend = LEGEND if validated else LEGEND[:1]
    lead = "Loss in nats per token by optimizer step. Each chart has an axis of its own."
    return Section("curves", "Training", lead, [Lines(list(found.values()), legend)])


def _panel(name: str, record: Record) -> Panel | None:
    trained = _points(record.noted("curve"))
    if not trained:
        return None
    validated = _points(record.noted("validation", "curve"))
    axis = Axis.over([y for _, y in (*trained, *validated)], pad=0.06)
    steps = max(x for x, _ in (*trained, *validated))
    series = [Series("faint", _placed(trained, steps, axis))]
    if validated:
        series.append(Series("strong", _placed(validated, steps, axis), dots=len(validated) <= 40))
    last = f"validation {decimals(validated[-1][1])}" if validated else f"loss {decimals(trained[-1][1])}"
    return Panel(name, last, series, decimals(axis.high), decimals(axis.low), "step 1", f"{steps:g}")


def _points(curve: JSON) -> list[Point]:
    """Return (step, loss) of a recorded curve, whose entries may say more."""
    entries = curve if isinstance(curve, list) else []
    numbers = [(quantity(e[0]), quantity(e[1])) for e in entries if isinstance(e, list) and len(e) > 1]
    return [(x, y) for x, y in numbers if x is not None and y is not None]


def _placed(points: Sequence[Point], steps: float, axis: Axis) -> list[Point]:
    along = Axis(1.0, steps) if steps > 1 else Axis(0.0, 1.0)
    return [(along.at(x), axis.down(y)) for x, y in points]
