"""What a build cost, in a line or two: all of it, this call, and mixing beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.view_text import hang, joined
from dem_build.report.cost import by_device, on_devices
from dem_build.report.mixing import times
from dem_build.report.quantities import duration
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.report.mixing import Mixing
    from dem_build.report.results import Results

__all__ = ["cost_line"]


def cost_line(results: Results, console: Console) -> None:
    """Print what everything cost when it ran, and what mixing costs instead."""
    total = by_device(results.cost.costs)
    if total:
        mixing = results.cost.mixing
        against = _against(mixing, judge(results).winner) if mixing else ""
        body = Text.assemble(joined(on_devices(total)), (joined(against), "dim"))
        hang(console, Text("cost   "), body)


def _against(mixing: Mixing, winner: str | None) -> str:
    projected = f" ({_lacking(mixing)}projected)" if mixing.trained < mixing.count else ""
    told = (
        f": DEM {duration(mixing.dem.total)}, {mixing.named} {duration(mixing.all.total)}{projected}, "
        f"{times(mixing.ratio)} times as much"
    )
    way = mixing.each.get(winner or "")
    if way is None or len(mixing.each) == 1:
        return told
    return f"{told}; {winner}, which won, {duration(way.total)}, {times(mixing.times_dem(way))} times"


def _lacking(mixing: Mixing) -> str:
    return f"{mixing.count - mixing.trained} of them " if mixing.trained else ""
