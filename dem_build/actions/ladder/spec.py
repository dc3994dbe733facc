"""Kind `ladder`: the vectors added to the base one at a time, each rung judged on test rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import TUNE, Action, Edge, Input, Kind
from dem_build.actions.compose.methods import METHODS
from dem_build.actions.tune.spec import tune_action
from dem_build.workload import JUDGING, Workload, recorded_rows_by_vectors, rows_by_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.recipe import Recipe

KIND = Kind(
    name="ladder",
    module="dem_build.actions.ladder.run",
    family="analyze",
    version=6,  # 6: a block's derivatives are summed over its batches in float64
    params=("objective", "max_samples", "bounds", "test_samples", "dtype"),
    outputs=("rungs",),
    sampled=frozenset({*JUDGING, "data/test"}),
    device=True,
    resumes=True,
    work=Workload(rows_by_vectors, recorded_rows_by_vectors, varies=True),
    # It searches where the whole model's ω were searched.
    slopes=lambda action: any(taken.of == "omega" for taken in action.takes),
    unfit="set ladder = false in [analysis]",
)


def analyses(recipe: Recipe, omega: Mapping[str, float | None]) -> list[Action]:
    """The ladder, where it is asked for: it takes all that tuning does, what that found, and test rows."""
    wanted, tested = recipe.analysis, recipe.tested
    if (
        wanted is None
        or not wanted.ladder
        or not (recipe.validated and tested)
        or not METHODS[recipe.compose.method].linear
    ):
        return []
    tune = tune_action(recipe, {name: value for name, value in omega.items() if value is not None})
    takes, groups = list(tune.takes), dict(tune.groups)
    if None in omega.values():
        takes += [Input(output, Edge(TUNE, output)) for output in ("omega", "passes")]
    for name in tested:
        group = f"{name}/test"  # a group of their own: they have no say
        groups[group] = {}
        takes.append(Input("delta", Edge(f"vector:{name}", "delta"), group=group))
        takes.append(Input("data/test", Edge(f"data:{name}", "test"), group=group))
    params = {name: tune.params[name] for name in ("objective", "max_samples", "bounds", "dtype")}
    params["test_samples"] = wanted.max_samples
    return [Action("ladder", KIND, params, tuple(takes), groups=groups)]
