"""Counts prompts that datasets share: a skill is not judged fairly on what another was trained on or chosen by.

Prompts are compared by the first 8 bytes of their digests, so that two spellings that differ in case or white space
are one. Memory: ten bytes for each different prompt of all train splits, or of another split of all datasets, and the
prompts of one held-out split at a time.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from dem_build.data.splits import Shared

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from dem_build.data.arrays import TokenRows

HELD_OUT = {"train": ("validation", "test"), "validation": ("test",), "test": ("test",)}
"""Split → the held-out splits that have to have other prompts. What of it matters depends on what is chosen by it."""


def shared_prompts(datasets: Mapping[str, Mapping[str, TokenRows]]) -> list[Shared]:
    """What any two datasets share, train splits first, and what one's test and validation rows share.

    What a held-out split shares with the same dataset's train is not among it: its preparation says so.

    Args:
        datasets: Name → split → its rows. A probe has a `test` split alone.
    """
    pairs: list[Shared] = []
    held: list[Shared] = []
    for of, splits in HELD_OUT.items():
        prompts = _Prompts(datasets, of)
        pairs += prompts.between() if of == "train" else []
        for name, split in product(prompts.names, splits):
            if split in datasets[name]:
                held += prompts.held_against(name, split, datasets[name][split].prompt_numbers)
    return [*pairs, *sorted(held)]


class _Prompts:
    """Every dataset's different prompts of one split, all of them sorted, and whose each is."""

    def __init__(self, datasets: Mapping[str, Mapping[str, TokenRows]], split: str) -> None:
        self.names, self._split = sorted(datasets), split
        # Sorted once, so that each split to compare costs a search by halves and no set of all prompts in Python.
        none = np.zeros(0, np.uint64)
        rows = [datasets[name].get(split) for name in self.names]
        parts = [none if part is None else np.unique(part.prompt_numbers) for part in rows]
        prompts = np.concatenate([none, *parts])
        owners = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(part) for part in parts])
        order = np.argsort(prompts, kind="stable")
        self._prompts, self._owners = prompts[order], owners[order]

    def between(self) -> list[Shared]:
        """What this split of any two datasets shares."""
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
        split = self._split
        return sorted(Shared(names[a], split, names[b], split, count) for (a, b), count in pairs.items())

    def held_against(self, name: str, split: str, rows: npt.NDArray[np.uint64]) -> list[Shared]:
        """Return in which datasets' split the prompts of held-out rows are."""
        first, last = (np.searchsorted(self._prompts, rows, side=side) for side in ("left", "right"))
        found: Counter[int] = Counter()
        for a, b in zip(first[first < last], last[first < last], strict=True):
            found.update(self._whose(a, b))
        own = self._split == "validation"
        others = [(self.names[o], n) for o, n in found.items() if own or self.names[o] != name]
        return [Shared(name, split, other, self._split, n) for other, n in others]

    def _whose(self, start: int, end: int) -> tuple[int, ...]:
        return tuple(self._owners[start:end].tolist())
