"""What each vector does to the losses around the model: left out, and with more or less of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions.response.read import read_response
from dem_build.report.html.blocks import (
    NONE,
    Axis,
    Block,
    Cell,
    DataTable,
    Fold,
    Lines,
    Panel,
    Section,
    Series,
    level,
)
from dem_build.report.quantities import decimals, plus_minus, signed
from dem_build.stats import Z95

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.actions.response.read import Point, Response
    from dem_build.report.inputs import ReportInputs


def leave_one_out(inputs: ReportInputs) -> Section | None:
    """What becomes of each loss when one vector is left out."""
    found = inputs.results.get(read_response)
    if found is None or not found.curves:
        return None
    without = found.without
    losses = {judge: {v: row[judge] for v, row in without.items() if judge in row} for judge in found.model}
    header = ["loss on", "the model", *(f"without {v}" for v in without)]
    body = []
    for judge, row in losses.items():
        most = max((abs(loss.change) for loss in row.values()), default=0.0)
        changes = [
            Cell(signed(loss.change), plus_minus(loss.change_stderr), level(loss.change, most))
            if (loss := row.get(vector))
            else NONE
            for vector in without
        ]
        body.append([Cell(judge, strong=True), Cell(decimals(found.model[judge].loss)), *changes])
    lead = (
        "The change in validation loss when one vector is left out and the others stay as they are, with the standard "
        "error of the paired difference. Where the loss rises (blue), the vector helps; where it falls, it hurts."
    )
    return Section("without", "Leaving one out", lead, [DataTable(header, body, len(header) - 1, heat=True)])


def response(inputs: ReportInputs) -> Section | None:
    """How the losses answer to more and less of each vector."""
    found = inputs.results.get(read_response)
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
        """The changes as a line."""
        points = [(along.at(omega), axis.down(change)) for omega, change, _ in self.points]
        return Series(kind, points, dots=dots, title=self.judge)

    def band(self, kind: str, along: Axis, axis: Axis) -> Series | None:
        """The outline of the intervals; None where no error is known."""
        if not any(half for _, _, half in self.points):
            return None
        upper = [(along.at(omega), axis.down(change + half)) for omega, change, half in self.points]
        lower = [(along.at(omega), axis.down(change - half)) for omega, change, half in self.points]
        return Series(kind, [*upper, *reversed(lower)])


def _curve(found: Response, name: str, points: Sequence[Point], judge: str) -> _Curve:
    """A judge's curve, with the model itself as a point of it."""
    known = {p.omega: p.losses[judge] for p in points if judge in p.losses}
    # An unknown error draws no band; the model itself is the zero that changes are counted from.
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


def _numbers(name: str, points: Sequence[Point]) -> DataTable:
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
    return DataTable(header, body, len(points), caption=f"More or less of {name}")


SECTIONS = (leave_one_out, response)
