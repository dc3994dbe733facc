"""What `[analysis]` asks for: how the vectors lie to each other, and what the model owes to each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.graph.nodes import ANALYSIS, BASE, LADDER, RESPONSE, TSNE, TUNE, Action, Edge, Taken
from dem_build.graph.tuning import tune_action

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Analysis, Recipe

__all__ = ["analyses"]


def analyses(recipe: Recipe, vectors: Collection[str], given: Mapping[str, float]) -> list[Action]:
    """Return the actions of `[analysis]`; none where the recipe has no such table, or no vectors.

    Args:
        recipe: The recipe.
        vectors: Names of the vectors.
        given: Vector → ω, of those whose ω is a number.
    """
    if recipe.analysis is None or not vectors:
        return []
    return [replace(a, salt=recipe.analysis.salt) for a in _wanted(recipe, recipe.analysis, vectors, given)]


def _wanted(
    recipe: Recipe, wanted: Analysis, vectors: Collection[str], given: Mapping[str, float]
) -> list[Action]:
    takes = [Taken("base/weights", Edge(BASE, "weights"))]
    takes += [Taken("delta", Edge(f"vector:{name}", "delta")) for name in vectors]
    found = [Action(ANALYSIS, "analysis", {}, tuple(takes))]
    validated = [name for name, dataset in recipe.datasets.items() if dataset.validation != 0]
    if wanted.tsne and validated:
        found.append(_tsne(recipe, validated))
    if recipe.compose.method != "dem":
        return found  # an interpolation with other ω scales the base too: its losses say nothing of a vector
    tested = any(dataset.test != 0 for dataset in recipe.datasets.values())
    if wanted.response and (validated or recipe.probes):
        found.append(_response(recipe, wanted.response, vectors, given))
    if wanted.ladder and validated and tested:
        found.append(_ladder(recipe, vectors, given))
    return found


def _tsne(recipe: Recipe, datasets: Collection[str]) -> Action:
    """The base is loaded as for its evaluation, so that a worker loads it once for both."""
    assert recipe.analysis is not None
    takes = [Taken(f"model/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Taken("data/validation", Edge(f"data:{n}", "validation"), group=n) for n in datasets]
    params = {"max_samples": recipe.analysis.max_samples, "dtype": recipe.compose.dtype}
    return Action(TSNE, "tsne", params, tuple(takes), groups={name: {} for name in datasets})


def _response(
    recipe: Recipe, values: Collection[float], vectors: Collection[str], given: Mapping[str, float]
) -> Action:
    """The ω of the model enter by what `tune` found, or each with its vector."""
    assert recipe.analysis is not None
    tuned = len(given) < len(vectors)
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Taken("omega", Edge(TUNE, "omega"))] if tuned else []
    groups: dict[str, Mapping[str, JSON]] = {}
    for name in vectors:
        groups[name] = {} if tuned else {"omega": given[name]}
        takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=name))
    for name, dataset in recipe.datasets.items():
        takes.append(Taken("data/train", Edge(f"data:{name}", "train"), group=name))
        if dataset.validation != 0:
            takes.append(Taken("data/validation", Edge(f"data:{name}", "validation"), group=name))
    for name in recipe.probes:
        groups[name] = {}
        takes.append(Taken("data/rows", Edge(f"data:{name}", "test"), group=name))
    params = {"omegas": sorted({0.0, *values}), "max_samples": recipe.analysis.max_samples}
    return Action(RESPONSE, "response", params, tuple(takes), groups=groups)


def _ladder(recipe: Recipe, vectors: Collection[str], given: Mapping[str, float]) -> Action:
    """All that tuning takes, what it found and measured, and the test rows in groups of their own."""
    assert recipe.analysis is not None
    tune = tune_action(recipe, given)
    takes, groups = list(tune.takes), dict(tune.groups)
    if len(given) < len(vectors):
        takes += [Taken(output, Edge(TUNE, output)) for output in ("omega", "passes")]
    for name, dataset in recipe.datasets.items():
        if dataset.test != 0:
            group = f"{name}/test"
            groups[group] = {}
            takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=group))
            takes.append(Taken("data/test", Edge(f"data:{name}", "test"), group=group))
    params = {name: tune.params[name] for name in ("objective", "max_samples", "bounds")}
    params["test_samples"] = recipe.analysis.max_samples
    return Action(LADDER, "ladder", params, tuple(takes), groups=groups)
