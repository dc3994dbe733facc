"""What one training takes: memory and disk from the shape of its model, tokens from its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.data.budget import Length, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.estimate.shape import Shape
    from dem_build.machine import Machine

__all__ = [
    "BYTES",
    "GRADIENT",
    "MASTER",
    "MOST_LOGITS",
    "PROCESS",
    "Pass",
    "Rows",
    "least_memory",
    "passes",
    "search_memory",
    "seen_tokens",
    "share_trained",
    "training_disk",
    "training_memory",
]

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
MASTER = 4
GRADIENT = 4
STATES = {"adamw_torch_fused": 8, "adamw_8bit": 2, "adafactor": 0}
"""Bytes a parameter of an optimizer's state; adafactor's rows and columns are next to nothing."""
CHECKPOINTS = 3
"""Two are kept, and one more is being written."""
MOST_LOGITS = 1 << 28
"""Logits that `model.likelihood` makes at once."""
BLOCKS = 16
"""Parts that `actions.tune.judges` deals rows into; derivatives are taken of one after another."""
PROCESS = 620_000_000
"""Python and the libraries of a worker, and the code that they make for shapes; on a GPU they are the host's."""


@dataclass(frozen=True)
class Rows:
    """What a dataset's train split holds.

    Attributes:
        rows: How many.
        tokens: Of all rows.
        trained_tokens: Those that count.
        longest: Tokens of the longest row; None where it is not recorded.
    """

    rows: int
    tokens: int
    trained_tokens: int
    longest: int | None = None


def least_memory(parameters: int, params: Mapping[str, JSON]) -> int:
    """The bytes without which a training cannot run, whatever its batches: weights, gradients, states."""
    return parameters * (MASTER + GRADIENT + STATES[params["optim"]])


def training_memory(
    shape: Shape,
    params: Mapping[str, JSON],
    machine: Machine,
    length: int,
    data: Rows | None = None,
) -> int:
    """The bytes that a training needs on a GPU: weights, gradients, optimizer, activations and logits.

    Gradients are there from one micro-batch of a step to the next. In the first, which has the step's longest rows,
    they come while its activations go.

    Args:
        shape: Of the base.
        params: Of the kind `finetune`.
        machine: Its micro-batch, and whether activations are computed again.
        length: Tokens of the longest sequence.
        data: What is trained on; None where it is not known: then all sequences are as long, and all tokens count.
    """
    trained = share_trained(data)
    cast = 2 if params["bf16"] else 0
    held = shape.parameters * (MASTER + STATES[params["optim"]] + cast)
    if params["optim"] == "adamw_8bit":
        held += shape.vocabulary * shape.hidden * 6  # transformers keeps an embedding's states in 32 bits
    gradients = shape.parameters * GRADIENT
    bf16, recomputed = bool(params["bf16"]), machine.gradient_checkpointing
    first, *second = (
        _batch(shape, one.tokens, trained, bf16=bf16, recomputed=recomputed)
        for one in passes(params, machine, length, data)
    )
    return int(held + max([gradients, first, *(gradients + batch for batch in second)]))


@dataclass(frozen=True)
class Pass:
    """A pass of the step where it is longest.

    Attributes:
        tokens: Padding included.
        filled: Tokens that are no padding, about; where it is not known how long rows are, all of them.
    """

    tokens: float
    filled: float


def passes(params: Mapping[str, JSON], machine: Machine, length: int, data: Rows | None) -> list[Pass]:
    """A step's first pass and, where there is one, its second; arguments are those of `training_memory`.

    Rows are taken to be spread evenly about their mean, and a step has its longest first. In the worst of steps, those
    of a pass are half as far below its longest as in the mean of steps.
    """
    rows, of = min(machine.micro_batch, params["global_batch_size"]), params["global_batch_size"]
    mean = float(length)
    if data and not params.get("packing"):  # packs are full, or nearly
        mean = min(data.tokens / max(data.rows, 1), mean)
    below = min(2 * (length - mean), length) * rows / of / 4
    longest = [length, length - 2 * below] if rows < of else [length]
    return [Pass(rows * most, rows * (most - below)) for most in longest]


def share_trained(data: Rows | None) -> float:
    """The share of tokens that count: only they get logits."""
    return data.trained_tokens / max(data.tokens, 1) if data else 1.0


def _batch(shape: Shape, tokens: float, trained: float, *, bf16: bool, recomputed: bool) -> float:
    """The bytes of one pass's activations, logits and what the head's gradient takes on its way.

    Where layers are computed again, the logits are gone before the first of them is.
    """
    logits = _logits(shape, tokens * trained, bf16=bf16)
    # The head's gradient is made in the precision of the pass and waits, widened, for the embeddings'.
    head = shape.vocabulary * shape.hidden * (GRADIENT + (2 if bf16 else 0))
    last = max(logits, head)
    if recomputed:
        return tokens * shape.layers * MASTER * shape.hidden + max(last, tokens * _layer(shape, bf16=bf16))
    return tokens * shape.layers * _layer(shape, bf16=bf16) + last


def search_memory(shape: Shape, machine: Machine, length: int, most: int, *, slopes: bool) -> int:
    """The bytes of one resident model in float32, and of what its passes over a judge's rows take beside it.

    Args:
        shape: Of the base.
        machine: Its batch of evaluations, and its micro-batch, of which derivatives are taken.
        length: Tokens of a row.
        most: Most rows of a judge.
        slopes: Whether derivatives are taken, by backward passes over the rows of one block after another.
    """
    forward = min(machine.eval_batch_size, most) * length
    needs = shape.parameters * MASTER + _passed(
        shape, forward, recomputed=True
    )  # a layer's tensors at a time
    if not slopes:
        return int(needs)
    backward = min(machine.micro_batch, math.ceil(most / BLOCKS)) * length
    gradients = shape.parameters * (MASTER + GRADIENT)
    return int(max(needs, gradients + _passed(shape, backward, recomputed=False)))


def _passed(shape: Shape, tokens: int, *, recomputed: bool) -> float:
    """The bytes of a float32 pass over tokens all of which count."""
    kept = shape.layers * MASTER * shape.hidden + _layer(shape, bf16=False)
    if not recomputed:
        kept = shape.layers * _layer(shape, bf16=False)
    return tokens * kept + _logits(shape, tokens, bf16=False)


def _layer(shape: Shape, *, bf16: bool) -> int:
    """The bytes that one token leaves in a layer for the backward pass.

    Under bfloat16 autocast the residual stream and the norms stay in float32, and each matrix has an input of its
    own: two norms keep 16 bytes a channel, their casts for five matrices 10, query and output 8; keys and values, with
    those that are repeated for each query head, 8 a channel of theirs and 4 of the stream; the MLP's four tensors 8 a
    channel. In float32 inputs are shared, and the rest is twice as wide.
    """
    hidden, keys, inner = shape.hidden, shape.keys, shape.inner
    repeated = hidden if keys < hidden else 0
    return (
        34 * hidden + 8 * keys + 4 * repeated + 8 * inner
        if bf16
        else 40 * hidden + 16 * keys + 8 * repeated + 16 * inner
    )


def _logits(shape: Shape, tokens: float, *, bf16: bool) -> float:
    """The bytes of logits, their softmax and gradient, and of the hidden states where they come in pieces."""
    most = min(tokens * shape.vocabulary, MOST_LOGITS)
    return most * (3 * 4 + (2 if bf16 else 0)) + tokens * shape.hidden * 4


def training_disk(shape: Shape, params: Mapping[str, JSON]) -> tuple[int, int]:
    """The bytes of a vector, and of the checkpoints while it is trained."""
    checkpoint = MASTER + STATES[params["optim"]]
    best = MASTER if params.get("load_best_model_at_end") else 0
    return shape.parameters * BYTES[params["vector_dtype"]], shape.parameters * (
        CHECKPOINTS * checkpoint + best
    )


def seen_tokens(rows: Rows, params: Mapping[str, JSON]) -> int:
    """The tokens that a training reads: of its epochs, or of its steps."""
    return round(Length.of(params).tokens(Size(rows.rows, rows.tokens)))
