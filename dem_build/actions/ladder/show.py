"""What each vector more brings on test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.ladder.read import read_ladder
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    DataTable,
    Lines,
    Panel,
    Section,
    Series,
    level,
)
from dem_build.report.quantities import decimals

if TYPE_CHECKING:
    from dem_build.actions.ladder.read import Ladder
    from dem_build.report.inputs import ReportInputs

LEGEND = (("strong", "ω searched anew"), ("faint", "ω of the whole model"))


def ladder(inputs: ReportInputs) -> Section | None:
    """What each vector more brings on test rows."""
    found = inputs.results.get(read_ladder)
    if found is None or not found.rungs:
        return None
    retuned = any(rung.retuned is not None for rung in found.rungs)
    layers = ", one a vector until the whole model has those of its layers" if inputs.results.layers else ""
    again = f"ω searched anew at each step, on validation rows{layers}; " if retuned else ""
    lead = (
        f"The model grows by one vector at a time ({again}the control keeps the ω of the whole model). "
        f"Gain recovered on test rows: 0 is the {inputs.origin}, 1 each dataset's own vector alone."
    )
    lines = _growth(found, inputs.origin)
    weak = found.floored
    left = "the mean is without them" if len(weak) < len(found.rows) else "the mean says little"
    note = f"Own vectors that gain next to nothing alone: {', '.join(weak)}; {left}." if weak else ""
    blocks: list[Block] = [Lines([lines], LEGEND if retuned else LEGEND[1:], wide=True, note=note)]
    if retuned:
        blocks.append(_rungs("ω searched anew", found, retuned=True))
    blocks.append(_rungs("ω of the whole model", found, retuned=False))
    return Section("ladder", "One vector more", lead, blocks)


def _growth(found: Ladder, origin: str) -> Panel:
    frozen = [0.0, *(rung.frozen.mean_gain for rung in found.rungs)]
    retuned = [0.0, *(rung.retuned.mean_gain for rung in found.rungs if rung.retuned is not None)]
    axis = Axis.over([*frozen, *retuned], pad=0.06)
    along = Axis(0.0, float(len(found.rungs)))
    series = [Series("faint", [(along.at(i), axis.down(v)) for i, v in enumerate(frozen)], dots=True)]
    if len(retuned) == len(frozen):
        series.append(
            Series("strong", [(along.at(i), axis.down(v)) for i, v in enumerate(retuned)], dots=True)
        )
    last = retuned[-1] if len(retuned) == len(frozen) else frozen[-1]
    return Panel(
        "mean gain recovered",
        f"{decimals(last)} with all",
        series,
        decimals(axis.high),
        decimals(axis.low),
        origin,
        f"{len(found.rungs)} vectors",
    )


def _rungs(caption: str, found: Ladder, *, retuned: bool) -> DataTable:
    names = list(found.rows)
    body = []
    for rung in found.rungs:
        tested = rung.retuned if retuned else rung.frozen
        if tested is not None:
            cells = [_gain(tested.gains[n]) if n in tested.gains else NONE for n in names]
            body.append([Cell(f"+ {', '.join(rung.added)}", strong=True), *cells, _gain(tested.mean_gain)])
    return DataTable(["added", *names, "mean"], body, len(names) + 1, heat=True, caption=caption)


def _gain(value: float) -> Cell:
    return Cell(decimals(value), level=level(value, 1.0))


SECTIONS = (ladder,)
