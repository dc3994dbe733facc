"""The output `omega` of tuning: ω of each vector by its digest, as canonical JSON.

{"format": "omega/1", "omega": {DIGEST: 0.5}}                     one ω a vector
{"format": "omega/1", "omega": {DIGEST: {"0": 0.5, "1": 0.4}}}    one for each vector and layer
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from dem_build.digest import canonical
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.digest import JSON, Digest

__all__ = ["FORMAT", "Omega", "by_vector", "read_omega", "write_omega"]

FORMAT = "omega/1"
Omega: TypeAlias = "float | dict[str, float]"


def by_vector(
    omega: NDArray[np.float64], vectors: Iterable[Digest], layers: Sequence[str]
) -> dict[Digest, Omega]:
    """Return a candidate, [vectors, layers], as it is written: a number a vector, or one a layer where they differ."""
    found: dict[Digest, Omega] = {}
    for digest, row in zip(vectors, omega, strict=True):
        alike = bool((row == row[0]).all())
        found[digest] = float(row[0]) if alike else dict(zip(layers, row.tolist(), strict=True))
    return found


def write_omega(path: Path, omega: Mapping[Digest, Omega]) -> None:
    """Write ω by vector."""
    path.write_bytes(canonical({"format": FORMAT, "omega": dict(omega)}))


def read_omega(path: Path) -> dict[Digest, Omega]:
    """Return ω by vector.

    Raises:
        CheckpointError: The file is not what `write_omega` writes.
    """
    try:
        document = parse_json(path.read_bytes())
        if document["format"] != FORMAT:
            raise CheckpointError(f"its format is {document['format']!r}, not {FORMAT!r}", where=str(path))
        return {str(name): _checked(omega) for name, omega in document["omega"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("is no file of tuned ω", where=str(path)) from error


def _checked(omega: JSON) -> Omega:
    values = list(omega.values()) if isinstance(omega, dict) else [omega]
    if not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise ValueError("ω must be finite numbers")
    return omega if isinstance(omega, dict) else float(omega)
