"""What each vector does in the model: left out, with more or less of it, and added one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    Fold,
    Lines,
    Panel,
    Section,
    Series,
    Table,
    level,
)
from dem_build.report.quantities import decimals, plus_minus, signed
from dem_build.stats import Z95

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.actions.ladder.read import Ladder, Rung, Tested
    from dem_build.actions.response.read import Loss, Point, Response
    from dem_build.report.material import Material

__all__ = ["ladder", "leave_one_out", "response"]


def leave_one_out(material: Material) -> Section | None:
    """What becomes of each loss when one vector is left out."""
    found = material.results.response
    if found is None or not found.curves:
        return None
    without = found.without
    losses = {judge: {v: row[judge] for v, row in without.items() if judge in row} for judge in found.model}
    header = ["loss on", "the model", *(f"without {v}" for v in without)]
    body = [
        [Cell(judge, strong=True), Cell(decimals(found.model[judge].loss)), *_changes(row, list(without))]
        for judge, row in losses.items()
    ]
    lead = (
        "The change in validation loss when one vector is left out and the others stay as they are, with the standard "
        "error of the paired difference. Where the loss rises (blue), the vector helps; where it falls, it hurts."
    )
    return Section("without", "Leaving one out", lead, [Table(header, body, len(header) - 1, heat=True)])


def _changes(losses: Mapping[str, Loss], names: Sequence[str]) -> list[Cell]:
    most = max((abs(loss.change) for loss in losses.values()), default=0.0)
    return [_changed(losses[n], most) if n in losses else NONE for n in names]


def _changed(loss: Loss, most: float) -> Cell:
    return Cell(signed(loss.change), plus_minus(loss.change_stderr), level(loss.change, most))


def response(material: Material) -> Section | None:
    """How the losses answer to more and less of each vector."""
    found = material.results.response
    if found is None or not found.curves:
        return None
    panels = [_panel(found, name, points) for name, points in found.curves.items() if len(points) > 1]
    banded = any(panel.bands for panel in panels)
    legend = [
        ("strong", "the vector's own dataset"),
        *([("band", "95 % interval of the change")] if banded else []),
        ("faint", "every other dataset and probe"),
        ("reference", "ω in the model"),
    ]
    numbers = [_numbers(name, points) for name, points in found.curves.items()]
    lead = (
        "The change in validation loss as one ω goes from least to most, the others staying as they are. "
        "Below the level dashed line is better than the model as it is."
    )
    blocks: list[Block] = [Lines(panels, legend), Fold("The same in numbers", numbers)]
    return Section("response", "More or less of each vector", lead, blocks)


@dataclass(frozen=True)
class _Curve:
    """The loss of one judge along an ω: (ω, change, half of its 95 % interval), ω rising."""

    judge: str
    points: Sequence[tuple[float, float, float]]

    @property
    def ends(self) -> list[float]:
        """The changes with their intervals."""
        return [change + side * half for _, change, half in self.points for side in (-1, 0, 1)]

    def line(self, kind: str, along: Axis, axis: Axis, *, dots: bool) -> Series:
        """Return the changes as a line."""
        points = [(along.at(omega), axis.down(change)) for omega, change, _ in self.points]
        return Series(kind, points, dots=dots, title=self.judge)

    def band(self, kind: str, along: Axis, axis: Axis) -> Series | None:
        """Return the outline of the intervals; None where no error is known."""
        if not any(half for _, _, half in self.points):
            return None
        upper = [(along.at(omega), axis.down(change + half)) for omega, change, half in self.points]
        lower = [(along.at(omega), axis.down(change - half)) for omega, change, half in self.points]
        return Series(kind, [*upper, *reversed(lower)])


def _curve(found: Response, name: str, points: Sequence[Point], judge: str) -> _Curve:
    """Return a judge's curve; the model itself, from which the changes are counted, is a point of it."""
    known = {p.omega: p.losses[judge] for p in points if judge in p.losses}
    told = {w: (loss.change, Z95 * (loss.change_stderr or 0.0)) for w, loss in known.items()}
    if name in found.omega and known and min(known) < found.omega[name] < max(known):
        told[found.omega[name]] = (0.0, 0.0)
    return _Curve(judge, [(w, *told[w]) for w in sorted(told)])


def _panel(found: Response, name: str, points: Sequence[Point]) -> Panel:
    judges = sorted(found.model, key=lambda judge: judge == name)  # its own is drawn last, on top
    curves = [_curve(found, name, points, judge) for judge in judges]
    axis = Axis.over([0.0, *(end for curve in curves for end in curve.ends)], pad=0.06)
    along = Axis(points[0].omega, points[-1].omega)
    kinds = ["strong" if judge == name else "faint" for judge in judges]
    series = [
        curve.line(kind, along, axis, dots=kind == "strong")
        for kind, curve in zip(kinds, curves, strict=True)
    ]
    bands = [curve.band(kind, along, axis) for kind, curve in zip(kinds, curves, strict=True)]
    ends = f"ω {points[0].omega:.2g}", f"{points[-1].omega:.2g}"
    omega = found.omega.get(name)
    return Panel(
        name,
        "" if omega is None else f"ω {omega:.3f} in the model",
        series,
        signed(axis.high),
        signed(axis.low),
        *ends,
        reference=(axis.down(0.0), ""),
        bands=[band for band in bands if band is not None],
        here=along.at(omega) if omega is not None and along.low <= omega <= along.high else None,
    )


def _numbers(name: str, points: Sequence[Point]) -> Table:
    judges = list(dict.fromkeys(judge for p in points for judge in p.losses))
    header = ["loss on", *(f"ω {p.omega:.3g}" for p in points)]
    body = [
        [
            Cell(judge, strong=True),
            *(
                Cell(signed(loss.change), plus_minus(loss.change_stderr))
                for loss in (p.losses[judge] for p in points)
            ),
        ]
        for judge in judges
    ]
    return Table(header, body, len(points), caption=f"More or less of {name}")


def ladder(material: Material) -> Section | None:
    """What each vector more brings on test rows."""
    found = material.results.ladder
    if found is None or not found.rungs:
        return None
    retuned = any(rung.retuned is not None for rung in found.rungs)
    layers = ", one a vector until the whole model has those of its layers" if material.results.layers else ""
    again = f"ω searched anew at each step, on validation rows{layers}; " if retuned else ""
    lead = (
        f"The model grows by one vector at a time ({again}the control keeps the ω of the whole model). "
        "Gain recovered on test rows: 0 is the base, 1 each dataset's own vector alone."
    )
    lines = _growth(found)
    weak = found.floored
    left = "the mean is without them" if len(weak) < len(found.rows) else "the mean says little"
    note = f"Own vectors that gain next to nothing alone: {', '.join(weak)}; {left}." if weak else ""
    blocks: list[Block] = [
        Lines([lines], LADDER_LEGEND if retuned else LADDER_LEGEND[1:], wide=True, note=note)
    ]
    if retuned:
        blocks.append(_rungs("ω searched anew", found, retuned=True))
    blocks.append(_rungs("ω of the whole model", found, retuned=False))
    return Section("ladder", "One vector more", lead, blocks)


LADDER_LEGEND = (("strong", "ω searched anew"), ("faint", "ω of the whole model"))


def _growth(found: Ladder) -> Panel:
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
        "base",
        f"{len(found.rungs)} vectors",
    )


def _rungs(caption: str, found: Ladder, *, retuned: bool) -> Table:
    names = list(found.rows)
    header = ["added", *names, "mean"]
    tested = [(rung, rung.retuned if retuned else rung.frozen) for rung in found.rungs]
    body = [_rung(rung, one, names) for rung, one in tested if one is not None]
    return Table(header, body, len(names) + 1, heat=True, caption=caption)


def _rung(rung: Rung, tested: Tested, names: Sequence[str]) -> list[Cell]:
    cells = [_gain(tested.gains[n]) if n in tested.gains else NONE for n in names]
    return [Cell(f"+ {', '.join(rung.added)}", strong=True), *cells, _gain(tested.mean_gain)]


def _gain(value: float) -> Cell:
    return Cell(decimals(value), level=level(value, 1.0))
