"""Kind `match`: each linear layer is fitted to what the fine-tuned models put out there, on a few training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods.match import MATCH
from dem_build.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe
    from dem_build.workload import Due

SAMPLE = "data/sample"
PASSES = 2
"""Of each row: through its dataset's own model, and through the composed one."""


def _passed_tokens(due: Due) -> float | None:
    tokens = due.sampled_tokens(SAMPLE, due.action.params["rows"])
    return None if tokens is None else PASSES * tokens


KIND = Kind(
    name="match",
    module="dem_build.actions.match.run",
    family="compose",
    version=2,
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
    groups = [
        {t.group for t in action.takes if t.of == of and t.group in action.groups} for of in ("delta", SAMPLE)
    ]
    vectors, having = groups
    return [name for name in action.groups if name in vectors - having] if having else []


def matched_model(recipe: Recipe, name: str, importance: Mapping[str, float]) -> Action:
    """The model of vectors, each with the importance of its dataset; one of importance 0 takes no part."""
    compose = recipe.compose
    groups: dict[str, Mapping[str, JSON]] = {n: {"importance": a} for n, a in importance.items() if a != 0}
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += vector_inputs(recipe, groups)
    params: dict[str, JSON] = {"dtype": compose.dtype, **{key: getattr(compose, key) for key in MATCH.keys}}
    return Action(name, KIND, params, tuple(takes), salt=compose.salt, groups=groups)


def vector_inputs(recipe: Recipe, vectors: Iterable[str]) -> Iterator[Input[Edge]]:
    """A group for each vector, with a sample of its rows. One from elsewhere that names none is in the prior alone."""
    for vector in vectors:
        yield Input("delta", Edge(f"vector:{vector}", "delta"), group=vector)
        if vector in recipe.sources:
            yield Input(SAMPLE, Edge(f"data:{vector}", "sample"), group=vector)
