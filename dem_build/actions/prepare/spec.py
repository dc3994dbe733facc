"""Kind `prepare`: a dataset's files become token ids and labels, split in train, validation and test."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.lock.parts import nameless

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe, Source, Train

__all__ = ["KIND", "dataset_action", "probe_action"]

KIND = Kind(
    name="prepare",
    module="dem_build.actions.prepare.run",
    family="prepare",
    # 3: a sample of train; 2: nulls of parquet are nothing, and `system`, `history`, `train` … are heeded
    version=3,
    params=(
        "format",
        "columns",
        "chat",
        "system",
        "loss",
        "max_length",
        "on_overflow",
        "validation",
        "test",
        "max_samples",
    ),
    outputs=("train", "validation", "test", "sample"),
    added=MappingProxyType({"group_by": None, "parts": None}),
    optional=frozenset({"columns", "chat", "system", "loss", "max_samples"}),
    before_training=True,
)


def dataset_action(recipe: Recipe, name: str, lock: Lock) -> Action:
    """The preparation of a dataset."""
    dataset, train = recipe.datasets[name], recipe.train_of(name)
    params = _source_params(dataset, train) | {
        # Files held out whole are sources with a tag of their own: their names enter no key.
        "validation": dataset.validation if isinstance(dataset.validation, int | float) else 0.0,
        "test": dataset.test if isinstance(dataset.test, int | float) else 0.0,
        "group_by": dataset.group_by,
    }
    files = lock.datasets[name]
    if dataset.parts is not None:
        params["parts"], files = nameless(dataset.parts, files)
    return _prepare(name, params, files, dataset.salt)


def probe_action(recipe: Recipe, name: str, lock: Lock) -> Action:
    """The preparation of a probe: a dataset whose rows are all held out."""
    params = _source_params(recipe.probes[name], recipe.train) | {"validation": 0.0, "test": 0.0}
    return _prepare(name, params, lock.datasets[name], recipe.probes[name].salt)


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


def _prepare(
    name: str, params: Mapping[str, JSON], files: tuple[SourceFile, ...], salt: str | None
) -> Action:
    takes = (Input("base/tokenizer", Edge(BASE, "tokenizer")),)
    return Action(f"data:{name}", KIND, params, takes, files, salt=salt)
