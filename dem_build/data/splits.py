"""Decides a row's side of a split by a hash of its prompt alone: no seed, no order, no other row.

The prompt is normalised first, so that copies which differ in case, white space or the spelling of an accent stay on
one side: case-folded, NFC, runs of white space made one space, ends stripped. The first 8 bytes of its SHA-256 are a
point in [0, 1): validation takes what lies below its share, test what lies in the last of it, train the middle. Test
is at the other end so that a changed validation share leaves the test rows as they are.
"""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SPLITS = ("train", "validation", "test")
POINTS = 2**64


def normalise(prompt: str) -> str:
    """What is hashed of a prompt."""
    if not prompt.isascii():
        # Twice: folding case can undo the composition, and sees other letters in what is not composed.
        prompt = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prompt).casefold())
    return " ".join(prompt.lower().split())


def prompt_digest(prompt: str) -> bytes:
    """The SHA-256 of the normalised prompt, 32 bytes."""
    return hashlib.sha256(normalise(prompt).encode("utf-8")).digest()


@dataclass(frozen=True)
class Splitter:
    """Shares of rows held out.

    Attributes:
        validation: In [0, 1).
        test: In [0, 1); the two together are below 1.
    """

    validation: float = 0.0
    test: float = 0.0

    def side(self, digest: bytes) -> str:
        """Return `train`, `validation` or `test` for the digest of a prompt."""
        point = int.from_bytes(digest[:8], "big")  # integers: a float would round the last points up to 1
        if point < int(self.validation * POINTS):
            return "validation"
        return "test" if point >= POINTS - int(self.test * POINTS) else "train"


def row_order(prompt: bytes, completion: str) -> bytes:
    """The place of a row among all rows, by its prompt's digest and then its completion: 32 bytes.

    Rows whose places are equal have the same prompt and completion, so it does not matter which of them is kept.
    """
    return prompt[:16] + hashlib.sha256(completion.encode("utf-8")).digest()[:16]


class Smallest:
    """Keeps the first `most` rows by their places, whatever order they come in.

    Args:
        orders: The places of all rows, as `row_order` gives them. Memory: `most` of them, however many there are.
        most: How many rows to keep.
    """

    def __init__(self, orders: Iterable[bytes], most: int) -> None:
        first = heapq.nsmallest(most + 1, orders)
        self._last = first[most - 1] if len(first) > most else None
        # Rows of the last place are equal to each other: as many of them stay as there is room for.
        self._room = first[:most].count(self._last) if self._last is not None else 0

    def keeps(self, order: bytes) -> bool:
        """Whether the row at `order` stays; asked once for each row."""
        if self._last is None or order < self._last:
            return True
        if order == self._last and self._room:
            self._room -= 1
            return True
        return False


@dataclass(frozen=True, order=True)
class Shared:
    """What two datasets have in common.

    Attributes:
        name: The dataset that is held against the other.
        split: Its split.
        other: The dataset that has the same prompts; the same one, where two of its own splits share them.
        other_split: Where it has them.
        count: Rows of a held-out split; of two train splits, different prompts.
    """

    name: str
    split: str
    other: str
    other_split: str
    count: int
