"""Kind `match`: each linear layer is fitted to what the fine-tuned models put out there, on a few training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods.match import MATCH
from dem_build.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe
    from dem_build.workload import Due

__all__ = ["COMPOSES", "KIND", "PASSES", "SAMPLE", "composing", "rowless"]

SAMPLE = "data/sample"
COMPOSES = MATCH.name

PASSES = 2
"""Of each row: through its dataset's own model, and through the composed one."""


def _passed_tokens(due: Due) -> float | None:
    tokens = due.sampled_tokens(SAMPLE, due.action.params["rows"])
    return None if tokens is None else PASSES * tokens


KIND = Kind(
    name="match",
    module="dem_build.actions.match.run",
    family="compose",
    version=1,
    params=("dtype", *MATCH.keys),
    outputs=MODEL_PARTS,
    device=True,
    writes_model=True,
    streams=True,
    work=Workload(_passed_tokens, lambda record: record.count("tokens", "seen"), tokens=True),
    unfit="lower `rows` in [compose], or compose on a machine with more memory",
)


def rowless(action: Action) -> list[str]:
    """The vectors of a matched model that have no rows: only the prior has them."""
    having = {taken.group for taken in action.takes if taken.of == SAMPLE}
    return [name for name in action.groups if name not in having] if action.kind is KIND else []


def composing(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
    """The model of vectors, each with the importance of its dataset; one of importance 0 takes no part.

    A vector from elsewhere has no rows here: only the prior has it.
    """
    compose = recipe.compose
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    groups: dict[str, Mapping[str, JSON]] = {}
    for vector, importance in omega.items():
        if importance == 0:
            continue
        groups[vector] = {"importance": importance}
        takes.append(Input("delta", Edge(f"vector:{vector}", "delta"), group=vector))
        if vector in recipe.datasets:
            takes.append(Input(SAMPLE, Edge(f"data:{vector}", "sample"), group=vector))
    params: dict[str, JSON] = {"dtype": compose.dtype, **{key: getattr(compose, key) for key in MATCH.keys}}
    return [Action(name, KIND, params, tuple(takes), salt=compose.salt, groups=groups)]
