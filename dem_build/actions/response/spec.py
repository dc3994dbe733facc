"""Kind `response`: how the losses of all datasets change as the ω of one vector does, the others as in the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, TUNE, Action, Edge, Input, Kind
from dem_build.actions.compose.methods import METHODS
from dem_build.actions.tune.spec import judging_inputs
from dem_build.workload import JUDGING, Workload, recorded_rows_by_vectors, rows_by_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

KIND = Kind(
    name="response",
    module="dem_build.actions.response.run",
    family="analyze",
    version=3,  # 3: a block's derivatives are summed over its batches in float64
    params=("omegas", "max_samples", "dtype"),
    outputs=("curves",),
    sampled=frozenset(JUDGING),
    device=True,
    resumes=True,
    work=Workload(rows_by_vectors, recorded_rows_by_vectors, ("omegas",)),
    slopes=lambda _: True,
    unfit="set response = [] in [analysis]",
)


def analyses(recipe: Recipe, omega: Mapping[str, float | None]) -> list[Action]:
    """The curves, where they are asked for and there are rows to judge by."""
    wanted = recipe.analysis
    if wanted is None or not wanted.response or not (recipe.validated or recipe.probes):
        return []
    if not METHODS[recipe.compose.method].linear:
        return []  # an interpolation with other ω scales the base too: its losses say nothing of a vector
    # The ω of the model enter by what `tune` found, or each with its vector.
    tuned = None in omega.values()
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Input("omega", Edge(TUNE, "omega"))] if tuned else []
    groups: dict[str, Mapping[str, JSON]] = {}
    for name, value in omega.items():
        groups[name] = {} if tuned else {"omega": value}
        takes.append(Input("delta", Edge(f"vector:{name}", "delta"), group=name))
    takes += judging_inputs(recipe)
    groups |= {name: {} for name in recipe.probes}
    params = {
        "omegas": sorted({0.0, *wanted.response}),
        "max_samples": wanted.max_samples,
        "dtype": recipe.compose.dtype,
    }
    return [Action("response", KIND, params, tuple(takes), groups=groups)]
