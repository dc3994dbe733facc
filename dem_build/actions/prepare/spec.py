"""Kind `prepare`: a dataset's files become token ids and labels, split in train, validation and test."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.lock.parts import nameless

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe, Source, Train

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


def prepared_rows(recipe: Recipe, name: str, lock: Lock) -> Action:
    """The preparation of a dataset, of a probe, or of the rows that a vector from elsewhere was trained on."""
    source, dataset, files = recipe.sources[name], recipe.datasets.get(name), lock.datasets[name]
    params = _source_params(source, recipe.train_of(name) if dataset else recipe.train)
    if dataset is not None:
        params["group_by"] = dataset.group_by
        if dataset.parts is not None:
            params["parts"], files = nameless(dataset.parts, files)
    # Files held out whole are sources with a tag of their own, as all of a probe's are: their names enter no key.
    shares = {side: getattr(source, side, 0.0) for side in ("validation", "test")}
    params |= {side: share if isinstance(share, int | float) else 0.0 for side, share in shares.items()}
    takes = (Input("base/tokenizer", Edge(BASE, "tokenizer")),)
    return Action(f"data:{name}", KIND, params, takes, files, salt=source.salt)


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
