"""Vectors: trained on a dataset, or taken from somebody's fine-tune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, Action, Edge, Taken
from dem_build.kinds import KINDS

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe, Train

__all__ = ["extracted_vector", "finetune_action", "trained_vector"]


def trained_vector(recipe: Recipe, name: str) -> Action:
    """Return the action that trains a dataset's vector."""
    return finetune_action(name, recipe.train_of(name))


def finetune_action(name: str, train: Train) -> Action:
    """Return the action that trains a vector on the rows of `data:NAME`."""
    takes: tuple[Taken, ...] = (
        Taken("base/weights", Edge(BASE, "weights")),
        Taken("base/config", Edge(BASE, "config")),
        Taken("data/train", Edge(f"data:{name}", "train")),
    )
    params, watching = _train_params(train), {}
    if train.eval_steps:
        chosen = "eval_steps" in params
        watching = {} if chosen else {"eval_steps": train.eval_steps}
        validation = Edge(f"data:{name}", "validation")
        takes = (*takes, Taken("data/validation", validation, watched=not chosen))
    return Action(f"vector:{name}", "finetune", params, takes, salt=train.salt, watching=watching)


def extracted_vector(recipe: Recipe, name: str, lock: Lock) -> Action:
    """Return the action that extracts a vector from somebody's fine-tune."""
    vector = recipe.vectors[name]
    takes = (
        Taken("base/weights", Edge(BASE, "weights")),
        Taken("base/config", Edge(BASE, "config")),
    )
    params = {"source": vector.source, "vector_dtype": vector.vector_dtype or recipe.train.vector_dtype}
    if vector.source == "adapter":
        params["merged_by"] = "formula"
    return Action(f"vector:{name}", "extract", params, takes, lock.vectors[name], salt=vector.salt)


def _train_params(train: Train) -> dict[str, JSON]:
    """Return what the weights follow from: validation counts where it stops a training or chooses from it."""
    packing = {"packing": train.packing, "max_length": train.max_length if train.packing else None}
    choosing: tuple[str, ...] = ()
    if train.eval_steps and (train.load_best_model_at_end or train.early_stopping_patience):
        choosing = ("eval_steps", "load_best_model_at_end", "early_stopping_patience")
    found = {name: getattr(train, name) for name in (*KINDS["finetune"].params, *choosing)}
    return found | packing | dict.fromkeys(train.idle)
