"""Kind `compose`: the base and its vectors, each with an ω, become one model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods import EDIT
from dem_build.workload import Workload, vectors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.recipe import Recipe

__all__ = ["KIND", "composed_model", "tuned_model"]

KIND = Kind(
    name="compose",
    module="dem_build.actions.compose.run",
    family="compose",
    version=1,
    params=("method", "dtype"),
    outputs=MODEL_PARTS,
    weighted="delta",
    light=True,
    writes_model=True,
    work=Workload(lambda due: 1 + due.vectors, lambda record: 1 + vectors_of(record), ("dtype",)),
)


def composed_model(
    recipe: Recipe, name: str, omega: Mapping[str, float], method: str | None = None
) -> Action:
    """The model of vectors, each with its ω; by the recipe's method unless one is given."""
    params = {"method": method or recipe.compose.method, "dtype": recipe.compose.dtype}
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [Input("delta", Edge(f"vector:{n}", "delta"), w) for n, w in omega.items()]
    return Action(name, KIND, params, tuple(takes), salt=recipe.compose.salt)


def tuned_model(recipe: Recipe, name: str, vectors: Iterable[str], tune: str) -> Action:
    """The model of vectors with the ω that the action `tune` found, by Eq. 2."""
    composed = composed_model(recipe, name, {}, EDIT.name)
    takes = [Input("delta", Edge(f"vector:{vector}", "delta")) for vector in vectors]
    return replace(composed, takes=(*composed.takes, *takes, Input("omega", Edge(tune, "omega"))))
