"""Layers that a backward pass computes again, in place of what they keep for it (T. Chen et al., arXiv 1604.06174)."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_layers(model: PreTrainedModel) -> None:
    """Have each layer keep its input alone, and compute the rest again: the same numbers for less memory and more time.

    `gradient_checkpointing_enable` of transformers asks for training mode, in which a model may drop out.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # A layer that held its own method would hold itself, until Python looks for cycles.
            layer.forward = _Recomputed(weakref.WeakMethod(layer.forward))


class _Recomputed:
    """A layer's `forward`, whose tensors are made again where a backward pass asks for them."""

    def __init__(self, forward: weakref.WeakMethod[Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Nothing draws numbers in evaluation mode, so no generator's state is kept.
        return checkpoint(self._forward(), *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
