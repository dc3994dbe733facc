"""Kind `extract`: somebody's fine-tune of the base, a checkpoint or a LoRA adapter, becomes a vector."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.workload import Workload

if TYPE_CHECKING:
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe

KIND = Kind(
    name="extract",
    module="dem_build.actions.extract.run",
    family="extract",
    version=1,
    params=("source", "vector_dtype"),
    outputs=("delta",),
    # Of an adapter: by its formula, since peft scales those of experts wrongly. "formula 2": a head that the base ties
    # counts under its published name too.
    added=MappingProxyType({"merged_by": "peft"}),
    writes_model=True,
    work=Workload(lambda _: 1, lambda _: 1, ("source", "vector_dtype")),
)


def extracted_vector(recipe: Recipe, name: str, lock: Lock) -> Action:
    """The extraction of a vector from somebody's fine-tune."""
    vector = recipe.vectors[name]
    takes = (
        Input("base/weights", Edge(BASE, "weights")),
        Input("base/config", Edge(BASE, "config")),
    )
    params = {"source": vector.source, "vector_dtype": vector.vector_dtype or recipe.train.vector_dtype}
    if vector.source == "adapter":
        params["merged_by"] = "formula 2"
    return Action(f"vector:{name}", KIND, params, takes, lock.vectors[name], salt=vector.salt)
