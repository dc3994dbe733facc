"""Held-out loss: the mean negative log-likelihood per token of one model on one split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import save_file

from dem_build.data.arrays import TokenRows
from dem_build.errors import EvaluationError
from dem_build.model.context_length import refuse_longer
from dem_build.model.environment import memory_told
from dem_build.model.likelihood import row_losses, row_nll
from dem_build.model.load import OUT_OF_MEMORY_HINT, evaluated_model, surroundings
from dem_build.stats import stderr_of_ratio
from dem_build.wording import overflow_hint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `metrics` (JSON: loss, loss_stderr, tokens, rows) and `rows` (nll float32, tokens int32: [rows]).

    Where several rows have one prompt, `metrics` says how many `prompts` there are, and `rows` which rows these are of
    (prompts uint64: [rows], the first 8 bytes of their digests). Where no token counts there is no `loss`, which is
    warned of: a small dataset's split may come out empty, and that is known only when all vectors may be trained.

    Args:
        inputs: `model/weights`, `model/config` and `data/rows`, a split's token rows.
        params: `dtype`, of the parameters and the forward pass; the loss itself is always summed in float32.
        context: Uses `machine.eval_batch_size`.

    Raises:
        EvaluationError: A row's loss is not finite.
        DataError: A row has more tokens than the model takes.
    """
    rows = TokenRows.open(inputs.paths["data/rows"])
    refuse_longer(rows, inputs.paths["model/config"])
    with memory_told(EvaluationError, "while computing a loss", OUT_OF_MEMORY_HINT):
        model = evaluated_model(inputs, params["dtype"], context)
        nll, tokens = _losses(model, rows, context)
    prompts = rows.prompt_numbers
    metrics = summary(nll, tokens, prompts, params["dtype"])
    if "loss" not in metrics:
        what = "no token of the held-out rows counts" if len(rows) else "there are no held-out rows"
        context.warn(
            f"{what}, so that there is no loss: raise the dataset's `test` share, or give it more rows"
        )
    context.write("metrics", metrics)
    told = {"prompts": prompts} if "prompts" in metrics else {}
    save_file({"nll": nll, "tokens": tokens, **told}, context.out / "rows")
    return surroundings(model, context) | {"tokens": {"seen": rows.tokens}}


def summary(
    nll: NDArray[np.float32], tokens: NDArray[np.int32], prompts: NDArray[np.uint64], dtype: str
) -> dict[str, JSON]:
    """The metrics of per-row summed losses, counts of tokens and numbers of prompts, [rows] each; no loss of no token.

    Raises:
        EvaluationError: A loss is not finite.
    """
    total = int(tokens.sum())
    if total == 0:
        return {"tokens": 0, "rows": len(nll)}
    if bad := np.flatnonzero(~np.isfinite(nll)).tolist():
        raise EvaluationError(
            f"the loss of {len(bad)} of {len(nll)} rows is not finite, that of row {bad[0]} first",
            hint=overflow_hint(dtype),
        )
    # Per token over all rows, and not the mean of the rows' means: then its exponential is the perplexity of the split,
    # and a short row weighs no more than its tokens.
    loss = math.fsum(nll) / total
    metrics: dict[str, JSON] = {"loss": loss, "tokens": total, "rows": len(nll)}
    if (different := len(np.unique(prompts))) < len(nll):
        metrics["prompts"] = different
    # Of a ratio of two sums over prompts: a token's loss is not independent of those of its own prompt. One has none.
    stderr = stderr_of_ratio(nll.tolist(), tokens.tolist(), prompts.tolist())
    return metrics if stderr is None else metrics | {"loss_stderr": stderr}


@torch.inference_mode()
def row_loss(model: PreTrainedModel, rows: Path, place: int) -> tuple[float, int]:
    """The summed loss of one row of a split, and how many of its tokens count.

    Alone and not in a batch: its last digits may be others than those that were recorded.
    """
    opened = TokenRows.open(rows)
    nll, counted = row_nll(model, [opened[place]])
    return float(nll[0]), counted[0]


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, rows: TokenRows, context: Context
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Summed loss and count of tokens for each row, in the order of the rows."""
    nll, tokens = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int32)
    done = 0
    for batch in row_losses(model, rows, context.machine.eval_batch_size):
        context.check_stop()
        for index, (loss, count) in batch.items():
            nll[index], tokens[index] = loss, count
        done += len(batch)
        context.progress(
            done, len(rows), "rows", loss=float(nll.sum(dtype=np.float64)) / max(int(tokens.sum()), 1)
        )
    return nll, tokens
