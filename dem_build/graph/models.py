"""Models: vectors composed with the base, by ω of the recipe or ω that `tune` finds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, MODEL, MODEL_PARTS, TUNE, Action, Edge, Taken
from dem_build.recipe import Tune

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

__all__ = ["composed_model", "tune_action", "tuned_model"]


def composed_model(recipe: Recipe, name: str, omega: Mapping[str, float]) -> Action:
    """Return the action that composes vectors, each with its ω."""
    params = {"method": recipe.compose.method, "dtype": recipe.compose.dtype}
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [Taken("delta", Edge(f"vector:{n}", "delta"), w) for n, w in omega.items()]
    return Action(name, "compose", params, tuple(takes))


def tuned_model(recipe: Recipe, vectors: Iterable[str]) -> Action:
    """Compose all vectors, with the ω that `tune` found."""
    composed = composed_model(recipe, MODEL, {})
    takes = [Taken("delta", Edge(f"vector:{name}", "delta")) for name in vectors]
    return replace(composed, takes=(*composed.takes, *takes, Taken("omega", Edge(TUNE, "omega"))))


def tune_action(recipe: Recipe, given: Mapping[str, float]) -> Action:
    """A dataset is judged on its validation rows; prompts that any vector was trained on are left out."""
    tune = recipe.tune or Tune()
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    groups: dict[str, dict[str, JSON]] = {}
    for name in recipe.vectors:
        groups[name] = {"omega": given.get(name)}
        takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=name))
    for name, dataset in recipe.datasets.items():
        groups[name] = {"importance": tune.importance.get(name, 1.0), "omega": given.get(name)}
        takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=name))
        takes.append(Taken("data/train", Edge(f"data:{name}", "train"), group=name))
        if dataset.validation != 0:
            takes.append(Taken("data/validation", Edge(f"data:{name}", "validation"), group=name))
    for name, probe in recipe.probes.items():
        groups[name] = {"limit": probe.max_loss_increase}
        takes.append(Taken("data/rows", Edge(f"data:{name}", "test"), group=name))
    params = {
        "search": tune.search,
        "objective": tune.objective,
        "granularity": tune.granularity,
        "max_samples": tune.max_samples,
        "bounds": list(tune.bounds),
        "dtype": recipe.compose.dtype,
    }
    return Action(TUNE, "tune", params, tuple(takes), groups=groups)
