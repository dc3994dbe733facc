"""Counts prompts that several datasets share: a skill is not judged fairly on what another one was trained on.

Prompts are compared by the first 8 bytes of their digests, so that two spellings that differ in case or white space
are one. Memory: ten bytes for each different prompt of a train split, and the prompts of one held-out split at a time.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from dem_build.data.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dem_build.data.arrays import TokenRows

__all__ = ["shared_prompts"]

HELD_OUT = ("validation", "test")


def shared_prompts(datasets: Mapping[str, Mapping[str, TokenRows]]) -> list[Shared]:
    """Return what any two datasets share, train splits first.

    Args:
        datasets: Name → split → its rows. A probe has a `test` split alone.
    """
    trained = _Trained({name: splits.get("train") for name, splits in sorted(datasets.items())})
    held = [
        found
        for name in trained.names
        for split in HELD_OUT
        if split in datasets[name]
        for found in trained.held_against(name, split, datasets[name][split].prompt_numbers)
    ]
    return [*trained.between(), *held]


class _Trained:
    """Every dataset's different prompts of train, all of them sorted, and whose each is."""

    def __init__(self, trains: Mapping[str, TokenRows | None]) -> None:
        self.names = list(trains)
        none = np.zeros(0, np.uint64)
        parts = [none if rows is None else np.unique(rows.prompt_numbers) for rows in trains.values()]
        prompts = np.concatenate([none, *parts])
        owners = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(part) for part in parts])
        order = np.argsort(prompts, kind="stable")
        self._prompts, self._owners = prompts[order], owners[order]

    def between(self) -> list[Shared]:
        """Return what any two train splits share."""
        edges = np.flatnonzero(np.diff(self._prompts)) + 1
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(self._prompts)]])
        several = ends - starts > 1
        # Equal prompts stand together, their owners in order: few different sets of owners, however many prompts.
        groups = Counter(self._whose(a, b) for a, b in zip(starts[several], ends[several], strict=True))
        pairs: Counter[tuple[int, int]] = Counter()
        for group, count in groups.items():
            for pair in combinations(group, 2):
                pairs[pair] += count
        names = self.names
        return sorted(Shared(names[a], "train", names[b], count) for (a, b), count in pairs.items())

    def held_against(self, name: str, split: str, rows: npt.NDArray[np.uint64]) -> list[Shared]:
        """Return in which other train splits the prompts of held-out rows are."""
        first, last = (np.searchsorted(self._prompts, rows, side=side) for side in ("left", "right"))
        found: Counter[int] = Counter()
        for a, b in zip(first[first < last], last[first < last], strict=True):
            found.update(self._whose(a, b))
        names = self.names
        return [Shared(name, split, names[o], n) for o, n in sorted(found.items()) if names[o] != name]

    def _whose(self, start: int, end: int) -> tuple[int, ...]:
        return tuple(self._owners[start:end].tolist())
