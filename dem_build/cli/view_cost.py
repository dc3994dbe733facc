"""What a build cost, in a line or two: all of it, this call, and mixing beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.view_text import hang, joined
from dem_build.report.cost import by_device, on_devices
from dem_build.report.mixing_cost import times
from dem_build.report.quantities import duration
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.report.mixing_cost import MixingCost
    from dem_build.report.results import Results

__all__ = ["cost_line"]


def cost_line(results: Results, console: Console) -> None:
    """Print what everything cost when it ran, and what mixing costs instead."""
    total = by_device(results.cost.costs)
    if total:
        mixing = results.cost.mixing
        against = f": {_against(mixing)}{_alone(mixing, results)}" if mixing else ""
        body = Text.assemble(joined(on_devices(total)), (joined(against), "dim"))
        hang(console, Text("cost   "), body)


def _against(mixing: MixingCost) -> str:
    some = f"{mixing.count - mixing.trained} of them " if mixing.trained else ""
    projected = f" ({some}projected)" if mixing.trained < mixing.count else ""
    return (
        f"DEM {duration(mixing.dem.total)}, {mixing.named} {duration(mixing.all.total)}{projected}, "
        f"{times(mixing.ratio)} times as much"
    )


def _alone(mixing: MixingCost, results: Results) -> str:
    """Return what the mixture that won took, where others stand beside it; nothing where none won."""
    winner = judge(results).winner if len(mixing.each) > 1 else None
    way = mixing.each.get(winner) if winner is not None else None
    return (
        f"; {winner}, which won, {duration(way.total)}, {times(mixing.times_dem(way))} times" if way else ""
    )
