"""Kind `import`: a base model's folder or GGUF file becomes weights, config and tokenizer in canonical form."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Kind

if TYPE_CHECKING:
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe

KIND = Kind(
    name="import",
    module="dem_build.actions.base.run",
    family="import",
    # 2: the tokens are those of tokenizer.json; what transformers keeps in float32 stays so
    version=2,
    params=("source", "dtype"),
    outputs=MODEL_PARTS,
    # The recipe's chat template is a source.
    added=MappingProxyType({"pad_token": None, "added_tokens": []}),
    before_training=True,
    writes_model=True,
)


def base_action(recipe: Recipe, lock: Lock) -> Action:
    """The import of the base."""
    dtype = recipe.base.dtype
    if dtype is None and lock.base.source == "gguf":
        dtype = "bfloat16"  # blocks of integers become some float: it is chosen here, and part of the key
    params = {
        "source": lock.base.source,
        "dtype": dtype,
        "pad_token": recipe.base.pad_token,
        "added_tokens": list(recipe.base.added_tokens),
    }
    return Action(BASE, KIND, params, sources=lock.base.files, salt=recipe.base.salt)
