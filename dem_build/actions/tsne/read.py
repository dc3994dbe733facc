"""Where the validation rows of each dataset lie to the base, with today's names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from dem_build.actions.tsne.spec import KIND
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

MAP = "map"
"""The output that is read."""

Map: TypeAlias = "Mapping[str, tuple[tuple[float, float], ...]]"
"""Dataset → a place in two dimensions for each of its rows; axes and units mean nothing."""


@reads("tsne", MAP, document=dict)
def read_tsne(build: BuildRecords) -> Map | None:
    """The map of a build's datasets; None where there was none, or not yet.

    Raises:
        StoreError: The record is not what it should be.
    """
    return build.of(KIND.name, _map, "map of the datasets", "draws it again")


def _map(build: BuildRecords, action: Action) -> Map:
    rows = build.document(action, MAP)["rows"]
    named = build.grouped(action, "data/validation")
    return {name: tuple(_place(*row) for row in rows[digest]) for name, digest in named.items()}


def _place(x: JSON, y: JSON) -> tuple[float, float]:
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError("a place that is nowhere")
    return float(x), float(y)


READERS = (read_tsne,)
