"""Baselines: what the composed model is compared with. Each ends in an action `model:NAME`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.data.budget import Length
from dem_build.graph.models import composed_model, tuned_model
from dem_build.graph.nodes import TUNE, Action, Edge, Taken
from dem_build.graph.tuning import best_single, scale_of
from dem_build.graph.vectors import finetune_action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Baseline, Recipe, Train

__all__ = ["baseline_actions"]


def baseline_actions(recipe: Recipe, name: str) -> list[Action]:
    """Return the actions that make a baseline, each after those it takes from.

    All of them have the baseline's salt, but for a mixture's training, which has that of its `train`.
    """
    salt = recipe.baselines[name].salt
    return [a if a.kind == "finetune" else replace(a, salt=salt) for a in _makers(recipe, name)]


def _makers(recipe: Recipe, name: str) -> list[Action]:
    baseline, made = recipe.baselines[name], f"model:{name}"
    vectors = [*recipe.datasets, *recipe.vectors]
    equal = dict.fromkeys(vectors, 1 / max(len(vectors), 1))
    if baseline.method == "mixing":
        return [_mix(recipe, name), _mixtures_vector(recipe, name), *_mixtures_model(recipe, name)]
    if baseline.method == "single":
        return [best_single(recipe, name), tuned_model(recipe, made, vectors, f"{TUNE}:{name}")]
    if baseline.method == "uniform":
        return [composed_model(recipe, made, equal, "dem")]
    return [composed_model(recipe, made, baseline.omega or equal, "interpolation")]


def _mix(recipe: Recipe, name: str) -> Action:
    """Return the action that mixes rows: as many tokens as the datasets' trainings read, or as the baseline says."""
    baseline, train = recipe.baselines[name], recipe.train_of(name)
    shares = _shares(recipe, baseline)
    own = baseline.length is not None
    groups: dict[str, Mapping[str, JSON]] = {}
    takes: list[Taken] = []
    for dataset, share in shares.items():
        if share == 0 and own:
            continue  # else its tokens count, though its rows do not
        groups[dataset] = {"share": share} | ({} if own else _length(recipe.train_of(dataset)))
        takes.append(Taken("data/train", Edge(f"data:{dataset}", "train"), group=dataset))
        if train.eval_steps and recipe.datasets[dataset].validation != 0:
            takes.append(Taken("data/validation", Edge(f"data:{dataset}", "validation"), group=dataset))
    return Action(f"data:{name}", "mix", _length(train) if own else {}, tuple(takes), groups=groups)


def _shares(recipe: Recipe, baseline: Baseline) -> dict[str, float | None]:
    """Return each dataset's weight in the mixture; None stands for the tokens it has."""
    if baseline.proportions == "natural":
        return dict.fromkeys(recipe.datasets)
    if baseline.proportions == "uniform":
        return dict.fromkeys(recipe.datasets, 1.0)
    total = math.fsum(baseline.proportions.values())
    return {name: baseline.proportions.get(name, 0.0) / total for name in recipe.datasets}


def _length(train: Train) -> dict[str, JSON]:
    length = Length.of(train.model_dump())
    return {"epochs": length.epochs, "sequences": length.sequences, "pack": length.pack}


def _mixtures_vector(recipe: Recipe, name: str) -> Action:
    """Train on the mixture: once over its rows, which are as many as they have to be, or by its own steps."""
    train = recipe.train_of(name)
    if recipe.baselines[name].length != "max_steps":
        train = train.model_copy(update={"num_train_epochs": 1.0, "max_steps": None})
    return finetune_action(name, train)


def _mixtures_model(recipe: Recipe, name: str) -> list[Action]:
    alpha = recipe.baselines[name].alpha
    if alpha == "tune":
        scale = scale_of(recipe, name)
        return [scale, tuned_model(recipe, f"model:{name}", [name], scale.name)]
    return [composed_model(recipe, f"model:{name}", {name: float(alpha)}, "dem")]
