"""Kind `mix`: the rows of several datasets become one train split, which one vector is trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.action import Action, Edge, Input, Kind
from dem_build.data.budget import Length

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Baseline, Recipe, Train

__all__ = ["KIND", "mix_action"]

KIND = Kind(
    name="mix",
    module="dem_build.actions.mix.run",
    family="mix",
    version=2,  # 2: datasets of the same rows are drawn from as one
    # How long its training is; without any of them, as long as all of its groups' together.
    params=("epochs", "sequences", "pack"),
    outputs=("train", "validation"),
    optional=frozenset({"epochs", "sequences", "pack"}),
    light=True,
    before_training=True,
)


def mix_action(recipe: Recipe, name: str) -> Action:
    """The rows of the baseline NAME: as many tokens as the datasets' trainings read, or as the baseline says."""
    baseline, train = recipe.baselines[name], recipe.train_of(name)
    own = baseline.length is not None
    groups: dict[str, Mapping[str, JSON]] = {}
    takes: list[Input[Edge]] = []
    for dataset, share in _shares(recipe, baseline).items():
        if share == 0 and own:
            continue  # else its tokens count, though its rows do not
        groups[dataset] = {"share": share} | ({} if own else _length(recipe.train_of(dataset)))
        takes.append(Input("data/train", Edge(f"data:{dataset}", "train"), group=dataset))
        if train.eval_steps and recipe.datasets[dataset].validation != 0:
            takes.append(Input("data/validation", Edge(f"data:{dataset}", "validation"), group=dataset))
    return Action(f"data:{name}", KIND, _length(train) if own else {}, tuple(takes), groups=groups)


def _shares(recipe: Recipe, baseline: Baseline) -> dict[str, float | None]:
    """Each dataset's weight in the mixture; None stands for the tokens it has."""
    if baseline.proportions == "natural":
        return dict.fromkeys(recipe.datasets)
    if baseline.proportions == "uniform":
        return dict.fromkeys(recipe.datasets, 1.0)
    total = math.fsum(baseline.proportions.values())
    return {name: baseline.proportions.get(name, 0.0) / total for name in recipe.datasets}


def _length(train: Train) -> dict[str, JSON]:
    length = Length.of(train.model_dump())
    return {"epochs": length.epochs, "sequences": length.sequences, "pack": length.pack}
