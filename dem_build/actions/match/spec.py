"""Kind `match`: each linear layer is fitted to what the fine-tuned models put out there, on a few training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.saliency.spec import saliency_action
from dem_build.workload import SAMPLE, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe
    from dem_build.workload import Due

KEYS = ("rows", "ridge", "prior")
"""Keys of `[compose]` that are parameters of a matching; `saliency` is an input."""
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
    params=("dtype", *KEYS),
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
    params: dict[str, JSON] = {"dtype": compose.dtype, **{key: getattr(compose, key) for key in KEYS}}
    return Action(name, KIND, params, tuple(takes), salt=compose.salt, groups=groups)


def saliencies(recipe: Recipe, importance: Mapping[str, float | None]) -> list[Action]:
    """The saliency of each dataset's rows, where the recipe asks for it; one of importance 0 takes no part."""
    if not recipe.compose.saliency:
        return []
    return [
        saliency_action(recipe, name) for name, a in importance.items() if a != 0 and name in recipe.sources
    ]


def vector_inputs(recipe: Recipe, vectors: Iterable[str]) -> Iterator[Input[Edge]]:
    """A group for each vector, with a sample of its rows, and their saliency if the recipe asks for it.

    A vector from elsewhere that names no rows is in the prior alone.
    """
    for vector in vectors:
        yield Input("delta", Edge(f"vector:{vector}", "delta"), group=vector)
        if vector in recipe.sources:
            yield Input(SAMPLE, Edge(f"data:{vector}", "sample"), group=vector)
            if recipe.compose.saliency:
                yield Input("saliency", Edge(f"saliency:{vector}", "saliency"), group=vector)
