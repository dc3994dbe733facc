"""What two datasets have in common, as a plain value: a plan shows it, and needs none of what counts it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Shared"]


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
