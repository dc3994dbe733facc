"""Kind `analysis`: how the vectors lie to each other and to the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.workload import Workload, vectors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.recipe import Recipe

KIND = Kind(
    name="analysis",
    module="dem_build.actions.analysis.run",
    family="analyze",
    version=1,
    params=(),
    outputs=("tables",),
    weighted="delta",
    light=True,
    work=Workload(lambda due: due.vectors, vectors_of),
)


def analyses(recipe: Recipe, omega: Mapping[str, float | None]) -> list[Action]:
    """The comparison of the vectors."""
    takes = [Input("base/weights", Edge(BASE, "weights"))]
    takes += [Input("delta", Edge(f"vector:{name}", "delta")) for name in omega]
    return [Action("analysis", KIND, {}, tuple(takes))] if recipe.analysis else []
