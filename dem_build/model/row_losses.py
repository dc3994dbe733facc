"""The summed loss of each row: what held-out losses and validation losses are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from dem_build.model.batches import by_length, collate
from dem_build.model.context_length import longest_short
from dem_build.model.likelihood import IGNORED, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.arrays import TokenRows

__all__ = ["row_losses", "row_nll"]

Losses: TypeAlias = "dict[int, tuple[float, int]]"


def row_losses(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Iterator[Losses]:
    """Yield row → summed loss in nats and number of tokens that count, a batch of rows of like length at a time.

    Rows that the model reads in two ways, see `context_length`, are in different batches.
    """
    for batch in by_length(rows.lengths, batch_size, longest_short(model.config)):
        nll, counts = row_nll(model, [rows[i] for i in batch])
        yield dict(zip(batch, zip(nll.tolist(), counts, strict=True), strict=True))


def row_nll(
    model: PreTrainedModel, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
) -> tuple[torch.Tensor, list[int]]:
    """Return the summed loss of each row of a batch, with its graph, [rows], and how many of its tokens count."""
    batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
    counts = (batch["labels"][:, 1:] != IGNORED).sum(dim=1).tolist()
    return torch.stack([row.sum() for row in torch.split(token_nll(model, **batch), counts)]), counts
