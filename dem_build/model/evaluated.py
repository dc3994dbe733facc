"""The model that an evaluation is about: loaded once for the evaluations that follow one another in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dem_build.model.environment import ran_on
from dem_build.model.load import device, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dem_build.step import Context, Inputs

__all__ = ["OUT_OF_MEMORY_HINT", "evaluated_model", "surroundings"]

OUT_OF_MEMORY_HINT = (
    "lower eval_batch_size in the machine file; where that is 1, dtype in [compose] or max_length"
)


def evaluated_model(inputs: Inputs, dtype: str, context: Context) -> PreTrainedModel:
    """Return the model of `model/weights` and `model/config`, its parameters in `dtype`, in evaluation mode.

    It is shared by all evaluations of the model: whoever changes it puts it back.
    """
    torch.set_num_threads(context.threads)
    attention = context.machine.attn_implementation
    key = [
        "evaluated",
        inputs.digests["model/weights"],
        inputs.digests["model/config"],
        dtype,
        str(attention),
    ]

    def load() -> PreTrainedModel:
        return load_model(
            inputs.paths["model/weights"],
            inputs.paths["model/config"],
            dtype=getattr(torch, dtype),
            device=device(),
            attn_implementation=attention,
        )

    return context.resident.get(" ".join(key), load)


def surroundings(model: PreTrainedModel, context: Context) -> dict[str, Any]:
    """Return what an evaluation records of where it ran: these can move its results in their last digits."""
    return {"batch_size": context.machine.eval_batch_size, **ran_on(model)}
