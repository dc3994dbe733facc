"""Vectors and models of a store, loaded as torch and transformers have them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.reader import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from dem_build.digest import Digest

# transformers' two are named here so that `study` need not import it, not even for types.
__all__ = [
    "PreTrainedModel",
    "PreTrainedTokenizerBase",
    "Tensors",
    "pretrained",
    "pretrained_tokenizer",
    "vector_tensors",
]

Tensors: TypeAlias = dict[str, torch.Tensor]


def vector_tensors(delta: Path, origin: Path, origin_digest: Digest, name: str) -> Tensors:
    """ΔΘ, all of it, in float32 on the CPU, however it is stored; `origin` has the weights that it is added to.

    Raises:
        CheckpointError: As `checkpoint.delta.open_delta`.
    """
    base = open_checkpoint(origin)
    with ExitStack() as stack:
        opened = stack.enter_context(open_delta(delta, base, origin_digest, name))
        return {
            key: torch.from_numpy(opened.floats(tensor, 0, tensor.size)).reshape(tensor.shape)
            for key, tensor in opened.tensors.items()
        }


def pretrained(folder: Path, arguments: dict[str, Any]) -> PreTrainedModel:
    """The model of a folder, as transformers loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(folder), **arguments)
    return model


def pretrained_tokenizer(folder: Path, arguments: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, likewise."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), **arguments)
    return tokenizer
