"""Two recipes, revisions or models side by side. Pure: it is given what is recorded, and prints nothing."""

from __future__ import annotations

from dem_build.compare.causes import Cause, CauseKind, CauseOfChange
from dem_build.compare.compare import GateChange, OmegaChange, SideBySide, SideCost, compare
from dem_build.compare.keys import ActionChange, Keys, Standing
from dem_build.compare.metrics import Basis, MetricChange, RowCounts
from dem_build.compare.paired import Effect, SignificanceTest
from dem_build.compare.sides import Side

__all__ = [
    "ActionChange",
    "Basis",
    "Cause",
    "CauseKind",
    "CauseOfChange",
    "Effect",
    "GateChange",
    "Keys",
    "MetricChange",
    "OmegaChange",
    "RowCounts",
    "Side",
    "SideBySide",
    "SideCost",
    "SignificanceTest",
    "Standing",
    "compare",
]
