"""The summed loss of each row: what held-out losses and validation losses are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from dem_build.steps.batches import collate
from dem_build.steps.context_length import longest_short
from dem_build.steps.likelihood import IGNORED, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.arrays import TokenRows

__all__ = ["row_losses"]

Losses: TypeAlias = "dict[int, tuple[float, int]]"


def row_losses(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Iterator[Losses]:
    """Yield row → summed loss in nats and number of tokens that count, a batch at a time.

    Rows of like length are together, the longest first: what does not fit in memory fails at once. Rows that the
    model reads in two ways, see `context_length`, are not.
    """
    order = np.argsort(-rows.lengths, kind="stable")
    most = longest_short(model.config)
    long = 0 if most is None else int((rows.lengths > most).sum())
    for sort in (order[:long].tolist(), order[long:].tolist()):
        for start in range(0, len(sort), batch_size):
            batch = sort[start : start + batch_size]
            yield dict(zip(batch, _batch_losses(model, [rows[i] for i in batch]), strict=True))


def _batch_losses(
    model: PreTrainedModel, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
) -> list[tuple[float, int]]:
    """Return summed loss and count of each row of a batch."""
    batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
    counts = (batch["labels"][:, 1:] != IGNORED).sum(dim=1).tolist()
    nll = token_nll(model, **batch)
    return [(row.sum().item(), count) for row, count in zip(torch.split(nll, counts), counts, strict=True)]
