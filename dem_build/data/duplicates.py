"""Finds held-out rows that nearly repeat what is trained on: other punctuation, a word more, a sentence moved.

A row is the set of its 8-word sequences (shingles), of words in lower case without punctuation; where words are not
parted by spaces (Chinese, Japanese, Korean), each character counts as one, and a row of fewer words is one sequence.
A held-out row is a near-duplicate where at least 80 % of its shingles stand somewhere in train. Shingles that more
than 1 % of the held-out rows (and more than three) share are an instruction that all rows have, and do not count.

Of a held-out row, the 64 shingles of the smallest hashes stand for all of them, and no more than the first 100,000
held-out rows are looked at: memory is bounded by 50 MB. Those of train are written to disk, 8 bytes a word, and read
through once. The figure is an estimate that nothing depends on.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Self

import numpy as np

from dem_build.data.splits import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    import numpy.typing as npt

WORDS = 8
# By the smallest hashes, as in A. Broder, On the Resemblance and Containment of Documents, 1997: they are a sample of
# the row's shingles without knowing any other row. A share of 0.8 that is estimated from 64 has a standard error of
# 0.05.
KEPT = 64
ENOUGH = 0.8  # containment, not resemblance: train is one large set, and the row is to be in it
MOST_ROWS = 100_000
COMMON_ROWS, COMMON_SHARE = 3, 0.01
CHUNK = 2**17

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
# Odd constants, one for each place in a shingle, from the digits of a fixed generator: the order of words counts, and
# a factor that is odd loses no bit of a word's hash modulo 2^64.
_PLACES = np.random.Generator(np.random.PCG64(8)).integers(2**63, size=WORDS, dtype=np.uint64) * 2 + 1


def shingles(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """The hashes of a row's shingles, uint64 [words - 7], in their order; empty for a row without words."""
    words = [word for text in texts for word in _WORD.findall(normalise(text))]
    codes = np.fromiter((zlib.crc32(word.encode()) for word in words), dtype=np.uint64, count=len(words))
    count = max(len(codes) - WORDS + 1, min(1, len(codes)))
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(min(WORDS, len(codes))):
        hashes += codes[place : place + count] * _PLACES[place]
    # The sums are regular; mixed, the smallest are a fair sample. Shifts and an odd factor can be undone, so no two
    # sums become one.
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return hashes


class NearDuplicates:
    """Takes rows of all splits, and counts the near-duplicates at the end.

    Args:
        spool: A file that does not exist yet, on a disk with room for 8 bytes a word; deleted again.
    """

    def __init__(self, spool: Path) -> None:
        spool.parent.mkdir(parents=True, exist_ok=True)
        self._spool = spool
        self._file = spool.open("wb")
        self._held: list[npt.NDArray[np.uint64]] = []
        self._sides: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._spool.unlink(missing_ok=True)

    def add(self, side: str, hashes: npt.NDArray[np.uint64]) -> None:
        """Take a row: its split and its shingles."""
        if side == "train":
            self._file.write(hashes.tobytes())
        elif len(self._held) < MOST_ROWS:
            self._held.append(np.unique(hashes)[:KEPT])
            self._sides.append(side)

    def count(self) -> dict[str, int]:
        """How many rows of each held-out split are near-duplicates of train."""
        near = self._near() if self._held else np.zeros(0, dtype=bool)
        return {
            side: sum(1 for own, is_near in zip(self._sides, near, strict=True) if own == side and is_near)
            for side in ("validation", "test")
        }

    def _near(self) -> npt.NDArray[np.bool_]:
        rows = np.repeat(np.arange(len(self._held)), [len(row) for row in self._held])
        known, places, counts = np.unique(np.concatenate(self._held), return_inverse=True, return_counts=True)
        # What many held-out rows share is their instruction, and train has it too: it would make all of them
        # duplicates.
        telling = counts <= max(COMMON_ROWS, COMMON_SHARE * len(self._held))
        found = telling & self._in_train(known)
        judged, hits = (
            np.bincount(rows, weights=which[places], minlength=len(self._held)) for which in (telling, found)
        )
        near: npt.NDArray[np.bool_] = (judged > 0) & (hits >= ENOUGH * judged)
        return near

    def _in_train(self, known: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of the sorted hashes are in train."""
        found = np.zeros(len(known), dtype=bool)
        self._file.flush()
        with self._spool.open("rb") as file:
            while len(known) and len(chunk := np.fromfile(file, dtype=np.uint64, count=CHUNK)):
                at = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
                found[at[known[at] == chunk]] = True
        return found
