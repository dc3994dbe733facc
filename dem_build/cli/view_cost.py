"""What a build cost, in a line or two: all of it, this call, and mixing beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.view_text import hang, joined
from dem_build.report.cost import by_device, on_devices
from dem_build.report.mixing import times
from dem_build.report.quantities import duration

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.report.mixing import Mixing
    from dem_build.report.reckoning import Reckoning

__all__ = ["cost_line"]


def cost_line(cost: Reckoning, console: Console) -> None:
    """Print what everything cost when it ran, and what mixing costs instead."""
    total = by_device(cost.costs)
    if total:
        against = _against(cost.mixing) if cost.mixing else ""
        body = Text.assemble(joined(on_devices(total)), (joined(against), "dim"))
        hang(console, Text("cost   "), body)


def _against(mixing: Mixing) -> str:
    best = f"best of {mixing.tried} mixtures" if mixing.tried > 1 else "one mixture"
    projected = " (projected)" if mixing.supposed else ""
    return (
        f": DEM {duration(mixing.dem.total)}, {best} {duration(mixing.best.total)}{projected}, "
        f"{times(mixing.ratio(mixing.tried))} times as much"
    )
