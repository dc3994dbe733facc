"""Kind `regmean`: each linear layer is fitted to the fine-tuned models by the Gram matrices of its inputs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods.regmean import REGMEAN
from dem_build.actions.gram.spec import gram_action
from dem_build.workload import Workload, vectors_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.recipe import Recipe

COMPOSES = REGMEAN.name

KIND = Kind(
    name="regmean",
    module="dem_build.actions.regmean.run",
    family="compose",
    version=2,
    params=("dtype", "ridge"),
    outputs=MODEL_PARTS,
    device=True,
    streams=True,
    writes_model=True,
    work=Workload(lambda due: 1 + due.vectors, lambda record: 1 + vectors_of(record), ("dtype",)),
)


def composing(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
    """The Gram matrices of each vector, and the model of all; a vector of importance 0 takes no part."""
    counted = {vector: importance for vector, importance in omega.items() if importance}
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    for vector in counted:
        takes.append(Input("delta", Edge(f"vector:{vector}", "delta"), group=vector))
        takes.append(Input("gram", Edge(f"gram:{vector}", "gram"), group=vector))
    params = {"dtype": recipe.compose.dtype, "ridge": recipe.compose.ridge}
    groups = {vector: {"importance": importance} for vector, importance in counted.items()}
    model = Action(name, KIND, params, tuple(takes), salt=recipe.compose.salt, groups=groups)
    return [*(gram_action(recipe, vector) for vector in counted), model]
