"""ω of vectors: the output `omega` of tuning, by the digests of the vectors, and candidates made of it.

{"format": "omega/1", "omega": {DIGEST: 0.5}}                     one ω a vector
{"format": "omega/1", "omega": {DIGEST: {"0": 0.5, "1": 0.4}}}    one for each vector and layer
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dem_build.digest import canonical
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.digest import JSON, Digest
    from dem_build.step import Inputs

FORMAT = "omega/1"
Omega: TypeAlias = "float | dict[str, float]"


def by_vector(
    omega: NDArray[np.float64], vectors: Iterable[Digest], layers: Sequence[str]
) -> dict[Digest, Omega]:
    """A candidate, [vectors, layers], as it is written: a number a vector, or one a layer where they differ."""
    found: dict[Digest, Omega] = {}
    for digest, row in zip(vectors, omega, strict=True):
        alike = bool((row == row[0]).all())
        found[digest] = float(row[0]) if alike else dict(zip(layers, row.tolist(), strict=True))
    return found


def write_omega(path: Path, omega: Mapping[Digest, Omega]) -> None:
    """Write ω by vector."""
    path.write_bytes(canonical({"format": FORMAT, "omega": dict(omega)}))


def read_omega(path: Path) -> dict[Digest, Omega]:
    """The ω of each vector.

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


def model_omega(inputs: Inputs, vectors: Sequence[Digest], layers: Sequence[str]) -> NDArray[np.float64]:
    """The ω of the composed model, [vectors, layers].

    Args:
        inputs: `omega`, where they were tuned; else the ω of each group that has a `delta`, summed over equal vectors.
        vectors: Digests, in the order of the rows.
        layers: Names of the layers, in the order of the columns.
    """
    found = np.zeros((len(vectors), len(layers)))
    if "omega" in inputs.paths:
        for digest, omega in read_omega(inputs.paths["omega"]).items():
            row = [omega[layer] for layer in layers] if isinstance(omega, dict) else omega
            found[vectors.index(digest)] = row
        return found
    for group in inputs.groups:
        if "delta" in group.digests:
            found[vectors.index(group.digests["delta"])] += group.params["omega"]
    return found


def direction(omega: NDArray[np.float64]) -> NDArray[np.float64]:
    """How each layer's ω changes with the mean ω of its vector, [vectors, layers]; their ratios stay."""
    # Around a mean of 0 there are no ratios to keep: all layers move alike. To scale them towards 0 alone, and beyond
    # the model to move them alike, was tried: the curve then has a kink at the model (docs/log.md).
    mean = omega.mean(axis=1, keepdims=True)
    return np.asarray(np.divide(omega, mean, out=np.ones_like(omega), where=mean != 0))


def with_omega(omega: NDArray[np.float64], vector: int, value: float) -> NDArray[np.float64]:
    """A candidate in which the mean ω of one vector's layers has another value."""
    changed = omega.copy()
    changed[vector] = value * direction(omega)[vector]
    return changed
