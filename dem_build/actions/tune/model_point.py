"""The model's ω, as it was given or found, as a candidate: where looking around it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.tune.omega import read_omega

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dem_build.digest import Digest
    from dem_build.step import Inputs

__all__ = ["direction", "model_omega", "with_omega"]


def model_omega(inputs: Inputs, vectors: Sequence[Digest], layers: Sequence[str]) -> NDArray[np.float64]:
    """Return the ω of the composed model, [vectors, layers].

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
    """Return how each layer's ω changes with the mean ω of its vector, [vectors, layers]; their ratios stay."""
    mean = omega.mean(axis=1, keepdims=True)
    return np.asarray(np.divide(omega, mean, out=np.ones_like(omega), where=mean != 0))


def with_omega(omega: NDArray[np.float64], vector: int, value: float) -> NDArray[np.float64]:
    """Return a candidate in which the mean ω of one vector's layers has another value."""
    changed = omega.copy()
    changed[vector] = value * direction(omega)[vector]
    return changed
