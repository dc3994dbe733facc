"""Kind `tsne`: a map of the datasets' validation rows as the base reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.workload import Workload, judging_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.recipe import Recipe

KIND = Kind(
    name="tsne",
    module="dem_build.actions.tsne.run",
    family="analyze",
    version=1,
    params=("max_samples", "dtype"),
    outputs=("map",),
    device=True,
    work=Workload(judging_rows, lambda record: record.count("rows"), ("dtype",)),
)


def analyses(recipe: Recipe, omega: Mapping[str, float | None]) -> list[Action]:  # noqa: ARG001  as of all analyses
    """The map, where it is asked for and there are validation rows."""
    datasets = recipe.validated
    if recipe.analysis is None or not recipe.analysis.tsne or not datasets:
        return []
    # The base is loaded as for its evaluation, so that a worker loads it once for both.
    takes = [Input(f"model/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Input("data/validation", Edge(f"data:{n}", "validation"), group=n) for n in datasets]
    params = {"max_samples": recipe.analysis.max_samples, "dtype": recipe.compose.dtype}
    return [Action("tsne", KIND, params, tuple(takes), groups={name: {} for name in datasets})]
