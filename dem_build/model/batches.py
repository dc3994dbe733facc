"""Which rows go into which optimizer step, in which order, and how they become tensors.

Both follow from the seed alone. The micro-batch, which is the machine's, only cuts a step's rows into pieces.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

from dem_build.data.tokenise import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


class RowOrder(Sampler[int]):
    """The order of rows: shuffled anew in each epoch, and by length within an optimizer step.

    Attributes:
        epoch: The epoch that iterating gives.
        steps_per_epoch: Optimizer steps in which every row is seen once; the last may be smaller.
    """

    def __init__(self, lengths: NDArray[np.integer], global_batch_size: int, seed: int) -> None:
        self.epoch = 0
        self.steps_per_epoch = math.ceil(len(lengths) / global_batch_size)
        self._lengths = np.asarray(lengths)
        self._size = global_batch_size
        self._seed = seed
        self._shuffled: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.steps_per_epoch
        for step in range(first, first + self.steps_per_epoch):
            yield from self.rows(step).tolist()

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of an optimizer step, counted from 0 over all epochs, the longest first."""
        epoch, step = divmod(step, self.steps_per_epoch)
        # By seed and epoch alone: a resumed training draws the same order, and the last one is kept.
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self))
        # By length within the step, so that a micro-batch holds little padding; the sum over the step is the same. Not
        # over the epoch: steps of rows of one length would be steps of one kind of row.
        rows = self._shuffled[1][step * self._size : (step + 1) * self._size]
        return rows[np.argsort(-self._lengths[rows], kind="stable")]


def by_length(
    lengths: NDArray[np.integer], size: int, boundary: int | None = None, padding: float = 1.0
) -> Iterator[list[int]]:
    """Yield rows in batches of like length, the longest first: what does not fit in memory fails at once.

    Args:
        lengths: Tokens of each row.
        size: Most rows of a batch.
        boundary: Longer rows and others are never in one batch, see `context_length.longest_short`.
        padding: Most of a batch that may be padding, as a share of its tokens: few rows sorted are not of like length.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    long = 0 if boundary is None else int((np.asarray(lengths) > boundary).sum())
    for sort in (order[:long].tolist(), order[long:].tolist()):
        batch: list[int] = []
        for row in sort:
            if batch:
                more = [*batch, row]  # the first is the longest: all others are padded to it
                filled = float(lengths[more].sum()) / (len(more) * max(int(lengths[batch[0]]), 1))
                if len(batch) == size or 1.0 - filled > padding:
                    yield batch
                    batch = []
            batch.append(row)
        if batch:
            yield batch


def collate(
    rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], ceilings: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Rows as tensors [rows, length], padded on the right with token 0 and labels that do not count.

    Args:
        rows: Input ids and labels, [tokens] each.
        ceilings: For lengths of few sizes, see `few_sizes`; None for the longest row's.
    """
    longest = max(len(ids) for ids, _ in rows)
    length = longest if ceilings is None else few_sizes(longest, ceilings)
    input_ids = np.zeros((len(rows), length), np.int64)
    labels = np.full((len(rows), length), MASKED, np.int64)
    for i, (ids, targets) in enumerate(rows):
        input_ids[i, : len(ids)] = ids
        labels[i, 1 : len(targets)] = targets[1:]  # a row's first token is predicted from nothing
    return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


def few_sizes(longest: int, ceilings: Sequence[int] = ()) -> int:
    """A length a little above `longest`, out of few: at most 16 lie between a power of two and the next.

    Args:
        longest: Tokens of the longest row.
        ceilings: Lengths that mean something to the model, and that padding does not pass.
    """
    # Libraries keep what they made for each shape that they met, on a CPU some 20 MB: a training whose batches have
    # hundreds of lengths fills the memory with it.
    step = 1 << max((longest - 1).bit_length() - 5, 3)
    padded = -(-longest // step) * step
    return min([padded, *(most for most in ceilings if longest <= most)])


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is not above `at_most`."""
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)
