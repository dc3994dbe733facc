"""The space in which ω is searched: which vectors there are, which of them are free, and what the others have."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.tune.measuring import vectors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dem_build.step import Group

__all__ = ["Space"]


class Space:
    """The free ω of a recipe.

    A vector that several groups have is one: its ω is the sum of theirs, given ones included, and free where any of
    them is. One that is a reference in all its groups is no part of any candidate: it is the measure of its dataset's
    gain.

    Args:
        groups: The inputs' groups.

    Attributes:
        deltas: Digest → file of each vector, in the order of digests.
        vector_of: Name of a group → index of its vector.
        fixed: What the recipe gives of each vector's ω, [vectors]: all of it where none is searched.
        free: Indices of the vectors whose ω is searched.
        taking_part: Indices of the vectors that are no mere references.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        with_delta = [g for g in groups if "delta" in g.digests]
        self.deltas = vectors_of(groups)
        names = list(self.deltas)
        self.vector_of = {g.name: names.index(g.digests["delta"]) for g in with_delta}
        self.fixed = np.zeros(len(names))
        for group in with_delta:
            self.fixed[self.vector_of[group.name]] += group.params.get("omega") or 0.0
        searched = Counter(self.vector_of[g.name] for g in with_delta if g.params.get("omega") is None)
        self.free = sorted(searched)
        self._searched = np.array([searched[vector] for vector in self.free], np.float64)
        self.taking_part = {self.vector_of[g.name] for g in with_delta if not g.params.get("reference")}

    def bounds(self, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and highest ω of the free vectors, [free] each, where each searched ω has these bounds."""
        given = self.fixed[self.free]
        return given + self._searched * low, given + self._searched * high

    def expand(self, omega: NDArray[np.float64], layers: int) -> NDArray[np.float64]:
        """Return the candidate of some free ω: [vectors, layers] from [free] or [free · layers]."""
        full = np.repeat(self.fixed[:, None], layers, axis=1)
        full[self.free] = omega.reshape(len(self.free), -1)
        return full
