"""Kind `mix`: the rows of several datasets become one train split, which one vector is trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.action import Action, Edge, Input, Kind
from dem_build.data.budget import Length

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe, Train

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
    """The rows of the mixture NAME: as many tokens as the datasets' trainings read, or as it says itself."""
    train = recipe.train_of(name)
    own = recipe.mixture_of(name).train.length is not None
    groups: dict[str, Mapping[str, JSON]] = {}
    takes: list[Input[Edge]] = []
    for dataset, share in _shares(recipe, name).items():
        if share == 0 and own:
            continue  # else its tokens count, though its rows do not
        groups[dataset] = {"share": share} | ({} if own else _length(recipe.train_of(dataset)))
        takes.append(Input("data/train", Edge(f"data:{dataset}", "train"), group=dataset))
        if train.eval_steps and recipe.datasets[dataset].validation != 0:
            takes.append(Input("data/validation", Edge(f"data:{dataset}", "validation"), group=dataset))
    return Action(f"data:{name}", KIND, _length(train) if own else {}, tuple(takes), groups=groups)


def _shares(recipe: Recipe, name: str) -> dict[str, float | None]:
    """Each dataset's weight in the mixture; None stands for the tokens it has."""
    datasets, said = recipe.mixed_by(name), recipe.mixture_of(name).proportions
    if said == "natural":
        return dict.fromkeys(datasets)
    if said == "uniform":
        return dict.fromkeys(datasets, 1.0)
    total = math.fsum(said.values())
    return {dataset: said.get(dataset, 0.0) / total for dataset in datasets}


def _length(train: Train) -> dict[str, JSON]:
    length = Length.of(train.model_dump())
    return {"epochs": length.epochs, "sequences": length.sequences, "pack": length.pack}
