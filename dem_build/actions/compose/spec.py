"""Kind `compose`: the base and its vectors, each with an ω, become one model."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods import EDIT, METHODS
from dem_build.workload import Workload, vectors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.recipe import Recipe

KIND = Kind(
    name="compose",
    module="dem_build.actions.compose.run",
    family="compose",
    version=1,
    params=("method", "dtype"),
    # What one way to compose reads, and others do not.
    added=MappingProxyType(dict.fromkeys(("density", "scale", "seed"))),
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
    way = METHODS[method or recipe.compose.method]
    params = {"method": way.name, "dtype": recipe.compose.dtype}
    params |= {key: getattr(recipe.compose, key) for key in way.keys if key in KIND.added}
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [Input("delta", Edge(f"vector:{n}", "delta"), w) for n, w in omega.items()]
    return Action(name, KIND, params, tuple(takes), salt=recipe.compose.salt)


def single_model(recipe: Recipe, vector: str) -> Action:
    """`model:NAME`, the fine-tuned model of one vector."""
    way = METHODS[recipe.compose.method]
    return composed_model(recipe, f"model:{vector}", {vector: 1.0}, (way if way.single else EDIT).name)


def tuned_model(recipe: Recipe, name: str, vectors: Iterable[str], tune: str) -> Action:
    """The model of vectors with the ω that the action `tune` found, by Eq. 2."""
    composed = composed_model(recipe, name, {}, EDIT.name)
    takes = [Input("delta", Edge(f"vector:{vector}", "delta")) for vector in vectors]
    return replace(composed, takes=(*composed.takes, *takes, Input("omega", Edge(tune, "omega"))))
