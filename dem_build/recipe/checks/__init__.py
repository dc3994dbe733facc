"""What the keys of a recipe say about each other: every contradiction, told with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe.checks import baselines, composing, evaluation, omega, rows, training
from dem_build.recipe.checks.tables import unless_wrong

if TYPE_CHECKING:
    from dem_build.recipe.messages import Mistake
    from dem_build.recipe.schema import Recipe

__all__ = ["contradictions"]


def contradictions(recipe: Recipe) -> list[Mistake]:
    """Every contradiction in a recipe, also in one that has `WRONG` values."""
    rules = (
        *rows.RULES,
        *training.RULES,
        *omega.RULES,
        *composing.RULES,
        *baselines.RULES,
        *evaluation.RULES,
    )
    return [mistake for rule in rules for mistake in unless_wrong(rule(recipe))]
