"""The base and the data: what is imported, and what becomes of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, Action, Edge, Taken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe, Source, Train

__all__ = ["base_action", "data_action", "probe_action"]


def base_action(recipe: Recipe, lock: Lock) -> Action:
    """Return the action that imports the base."""
    dtype = recipe.base.dtype
    if dtype is None and lock.base.source == "gguf":
        dtype = "bfloat16"  # blocks of integers become some float: it is chosen here, and part of the key
    params = {
        "source": lock.base.source,
        "dtype": dtype,
        "pad_token": recipe.base.pad_token,
        "added_tokens": list(recipe.base.added_tokens),
    }
    return Action(BASE, "import", params, sources=lock.base.files, salt=recipe.base.salt)


def data_action(recipe: Recipe, name: str, lock: Lock) -> Action:
    """Return the action that prepares a dataset."""
    dataset, train = recipe.datasets[name], recipe.train_of(name)
    params = _source_params(dataset, train) | {
        # Files held out whole are sources with a tag of their own: their names enter no key.
        "validation": dataset.validation if isinstance(dataset.validation, int | float) else 0.0,
        "test": dataset.test if isinstance(dataset.test, int | float) else 0.0,
        "group_by": dataset.group_by,
    }
    return _prepare(name, params, lock, dataset.salt)


def probe_action(recipe: Recipe, name: str, lock: Lock) -> Action:
    """A probe is prepared as a dataset whose rows are all held out."""
    params = _source_params(recipe.probes[name], recipe.train) | {"validation": 0.0, "test": 0.0}
    return _prepare(name, params, lock, recipe.probes[name].salt)


def _source_params(source: Source, train: Train) -> dict[str, JSON]:
    return {
        "format": source.format,
        "columns": source.columns,
        "chat": source.chat,
        "system": source.system,
        "loss": source.loss,
        "max_length": train.max_length,
        "on_overflow": source.on_overflow,
        "max_samples": source.max_samples,
    }


def _prepare(name: str, params: Mapping[str, JSON], lock: Lock, salt: str | None) -> Action:
    takes = (Taken("base/tokenizer", Edge(BASE, "tokenizer")),)
    return Action(f"data:{name}", "prepare", params, takes, lock.datasets[name], salt=salt)
