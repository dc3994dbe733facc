"""Searches for ω: of the recipe's vectors, of a mixture's scale, of the best vector alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, TUNE, Action, Edge, Taken
from dem_build.recipe import Tune

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

    Params = dict[str, JSON]

__all__ = ["best_single", "scale_of", "tune_action"]


def tune_action(recipe: Recipe, given: Mapping[str, float]) -> Action:
    """Return the action that finds the ω that are not given."""
    vectors = [*recipe.datasets, *recipe.vectors]
    return _search(recipe, TUNE, {name: {"omega": given.get(name)} for name in vectors})


def scale_of(recipe: Recipe, name: str) -> Action:
    """Return the action that finds the scale α of the vector NAME, a mixture's.

    It is judged as the recipe's ω are. The datasets' own vectors take no part: they are the measure of the gain.
    """
    reference: Params = {"omega": 0.0, "reference": True}
    vectors: dict[str, Params] = {name: {"omega": None}} | dict.fromkeys(recipe.datasets, reference)
    return _search(recipe, f"{TUNE}:{name}", vectors, granularity="model")


def best_single(recipe: Recipe, name: str) -> Action:
    """Return the action that finds the vector that does best alone, and its scale."""
    vectors: dict[str, Params] = {n: {"omega": None} for n in (*recipe.datasets, *recipe.vectors)}
    return _search(recipe, f"{TUNE}:{name}", vectors, search="single", granularity="model")


def _search(recipe: Recipe, name: str, vectors: Mapping[str, Params], **other: str) -> Action:
    """Return a search.

    Args:
        recipe: The recipe.
        name: Of the action.
        vectors: Name of a vector that takes part, or is a reference → what is said of it.
        other: Parameters that differ from `[tune]`.
    """
    tune = recipe.tune or Tune()
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Taken("delta", Edge(f"vector:{vector}", "delta"), group=vector) for vector in vectors]
    takes += _judging(recipe)
    groups: dict[str, Params] = {vector: dict(said) for vector, said in vectors.items()}
    for dataset in recipe.datasets:
        groups[dataset]["importance"] = tune.importance.get(dataset, 1.0)
    groups |= {probe: {"limit": p.max_loss_increase} for probe, p in recipe.probes.items()}
    params: Params = {
        "search": tune.search,
        "objective": tune.objective,
        "granularity": tune.granularity,
        "max_samples": tune.max_samples,
        "bounds": list(tune.bounds),
        "dtype": recipe.compose.dtype,
    }
    return Action(name, "tune", params | other, tuple(takes), salt=tune.salt, groups=groups)


def _judging(recipe: Recipe) -> Iterator[Taken]:
    """Yield what judges: validation rows, and the train splits whose prompts are left out of them."""
    for name, dataset in recipe.datasets.items():
        yield Taken("data/train", Edge(f"data:{name}", "train"), group=name)
        if dataset.validation != 0:
            yield Taken("data/validation", Edge(f"data:{name}", "validation"), group=name)
    for name in recipe.probes:
        yield Taken("data/rows", Edge(f"data:{name}", "test"), group=name)
