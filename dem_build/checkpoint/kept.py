"""Which tensors stay in float32 whatever format a model gets, as the metadata of a base's weights say.

Some models compute with a few tensors in float32 though all else is bfloat16 or float16, and transformers so loads
them. Which these are is found when a base is imported; composing needs to know, and loads no model.
The metadata have it only where there are any: `{"float32": {"BF16": [NAME, …], "F16": [NAME, …]}}`, as JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["kept_in", "kept_metadata"]

KEY = "float32"


def kept_metadata(kept: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the metadata that say which tensors stay in float32.

    Args:
        kept: Format in safetensors' words → names of tensors that stay in float32 in a model of this format.
    """
    named = {code: sorted(names) for code, names in sorted(kept.items())}
    return {KEY: json.dumps(named)} if any(named.values()) else {}


def kept_in(metadata: Mapping[str, str], code: str | None) -> frozenset[str]:
    """Return the names of the tensors that stay in float32 in a model of the format `code`; None is each as it is."""
    if code is None or KEY not in metadata:
        return frozenset()
    return frozenset(parse_json(metadata[KEY]).get(code, ()))
