"""Models: vectors composed with the base, by ω of the recipe or ω that are searched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, MODEL_PARTS, Action, Edge, Taken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.recipe import Recipe

__all__ = ["composed_model", "tuned_model"]


def composed_model(
    recipe: Recipe, name: str, omega: Mapping[str, float], method: str | None = None
) -> Action:
    """Return the action that composes vectors, each with its ω; by the recipe's method unless one is given."""
    params = {"method": method or recipe.compose.method, "dtype": recipe.compose.dtype}
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [Taken("delta", Edge(f"vector:{n}", "delta"), w) for n, w in omega.items()]
    return Action(name, "compose", params, tuple(takes), salt=recipe.compose.salt)


def tuned_model(recipe: Recipe, name: str, vectors: Iterable[str], tune: str) -> Action:
    """Return the action that composes vectors with the ω that the action `tune` found, by Eq. 2."""
    composed = composed_model(recipe, name, {}, "dem")
    takes = [Taken("delta", Edge(f"vector:{vector}", "delta")) for vector in vectors]
    return replace(composed, takes=(*composed.takes, *takes, Taken("omega", Edge(tune, "omega"))))
