"""A few rows that stand for a train split, whatever order they come in, and whatever rows come beside them.

A row's place is a hash of its tokens and labels: of rows that are added only those of a low hash change the sample.
"""

from __future__ import annotations

import hashlib
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from dem_build.data.arrays import RowsWriter

    Ids = npt.NDArray[np.int32]

MOST = 256
"""Rows of a sample."""


class RowSample:
    """Keeps the rows of the lowest hashes, each once.

    Memory: twice as many rows as it keeps.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: dict[bytes, tuple[bytes, Ids, Ids]] = {}
        self._last: bytes | None = None

    def look(self, input_ids: Ids, labels: Ids, prompt: bytes) -> None:
        """Look at a row, each int32 [tokens], and the digest of its prompt."""
        place = hashlib.sha256(input_ids.astype("<i4", copy=False).tobytes())
        place.update(labels.astype("<i4", copy=False).tobytes())
        found = place.digest()
        if self._last is not None and found > self._last:
            return
        # Two prompts that became the same tokens are one row, with the lower one's digest: no order decides.
        if found not in self._kept or prompt < self._kept[found][0]:
            self._kept[found] = (prompt, input_ids, labels)
        if len(self._kept) > 2 * self._most:
            self._kept = dict(self._smallest())
            self._last = next(reversed(self._kept))

    def write(self, writer: RowsWriter) -> None:
        """Append the rows to `writer`, in the order of their hashes."""
        for _, (prompt, input_ids, labels) in self._smallest():
            writer.append(input_ids, labels, prompt)

    def _smallest(self) -> list[tuple[bytes, tuple[bytes, Ids, Ids]]]:
        return heapq.nsmallest(self._most, self._kept.items(), key=lambda kept: kept[0])
