"""What `[analysis]` asks for: how the vectors lie to each other and to the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.graph.nodes import ANALYSIS, BASE, Action, Edge, Taken

if TYPE_CHECKING:
    from collections.abc import Collection

    from dem_build.recipe import Recipe

__all__ = ["analyses"]


def analyses(recipe: Recipe, vectors: Collection[str]) -> list[Action]:
    """Return the actions of `[analysis]`; none where the recipe has no such table, or no vectors."""
    if recipe.analysis is None or not vectors:
        return []
    takes = [Taken("base/weights", Edge(BASE, "weights"))]
    takes += [Taken("delta", Edge(f"vector:{name}", "delta")) for name in vectors]
    return [Action(ANALYSIS, "analysis", {}, tuple(takes))]
