"""Which rows of an optimizer step a rank has: micro-batches are dealt out in order, one to each rank in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Sampler

from dem_build.data.tokenise import MASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from dem_build.model.batches import RowOrder

BLANK = 2  # tokens of a row that counts for nothing


class Dealt(Sampler[list[int]]):
    """A rank's micro-batches of an epoch: equally many on every rank, so that all take part in each exchange.

    Args:
        order: The rows of each step.
        size: Rows of all steps but an epoch's last.
        micro_batch: Most rows of one pass.
        rank: Whose they are.
        ranks: How many share them.

    Attributes:
        rounds: Micro-batches of a rank in one step.
    """

    def __init__(self, order: RowOrder, size: int, micro_batch: int, rank: int, ranks: int) -> None:
        self.order = order
        self._micro_batch, self._rank, self._ranks = micro_batch, rank, ranks
        self.rounds = self._rounds(size)
        last = len(order) - (order.steps_per_epoch - 1) * size
        self._length = (order.steps_per_epoch - 1) * self.rounds + self._rounds(last)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        first = self.order.epoch * self.order.steps_per_epoch
        for step in range(first, first + self.order.steps_per_epoch):
            yield from self.of_step(step)

    def of_step(self, step: int) -> list[list[int]]:
        """The micro-batches of a step; one is empty where there was none left for this rank."""
        rows = self.order.rows(step).tolist()
        starts = (
            (turn * self._ranks + self._rank) * self._micro_batch for turn in range(self._rounds(len(rows)))
        )
        return [rows[start : start + self._micro_batch] for start in starts]

    def _rounds(self, rows: int) -> int:
        return -(-rows // (self._micro_batch * self._ranks))


def or_blank(
    collate: Callable[[Sequence[Any]], dict[str, torch.Tensor]],
) -> Callable[[Sequence[Any]], dict[str, torch.Tensor]]:
    """Collate rows as `collate` does, and no rows as one of which no token counts."""
    blank = np.zeros(BLANK, np.int32), np.full(BLANK, MASKED, np.int32), np.arange(BLANK)

    def collated(rows: Sequence[Any]) -> dict[str, torch.Tensor]:
        return collate(rows or [blank])

    return collated
