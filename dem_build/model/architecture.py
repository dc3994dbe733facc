"""What weights a config's model has: built without memory, so that a checkpoint can be held against it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from dem_build.errors import CheckpointError
from dem_build.model.load import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON

__all__ = ["Architecture", "architecture", "parse_config"]

# Buffers that old checkpoints stored and that are computed now.
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
# What transformers raises of a config that it does not know or that contradicts itself.
UNKNOWN_MODEL = (ValueError, KeyError, TypeError, AttributeError, ImportError, OSError, RuntimeError)


@dataclass(frozen=True)
class Architecture:
    """The weights of a config's model.

    Attributes:
        model: Name of the model's class.
        tied: Whether the config ties the word embeddings to the head.
        tensors: Name in memory → tensor, without memory, of each that must be stored.
        ties: Name of a tensor that is another one under a second name → that one.
        ignored: Patterns of names that a checkpoint may hold and that are not used.
        spared: Patterns of names in memory that a checkpoint may lack: they start as the model does.
        vocabulary: Rows of the word embeddings.
        built: The model, built without memory.
    """

    model: str
    tied: bool
    tensors: Mapping[str, torch.Tensor]
    ties: Mapping[str, str]
    ignored: tuple[str, ...]
    spared: tuple[str, ...]
    vocabulary: int
    built: Any

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name in memory → shape of each tensor that must be stored."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def parse_config(config: JSON, where: str) -> Any:
    """Return a `config.json` as transformers reads it, with every default filled in.

    Raises:
        CheckpointError: transformers does not know such a model.
    """
    with tempfile.TemporaryDirectory(prefix="dem-config-") as folder, quiet():
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except UNKNOWN_MODEL as error:
            raise _cannot_be_built(error, where) from error


def architecture(config: JSON, where: str) -> Architecture:
    """Return the weights that the model of a `config.json` has.

    Raises:
        CheckpointError: transformers knows no causal language model of this config.
    """
    parsed = parse_config(config, where)
    with quiet():
        try:
            with torch.device("meta"):
                auto: Any = AutoModelForCausalLM  # its methods carry no types
                model: Any = auto.from_config(parsed, trust_remote_code=False)
        except UNKNOWN_MODEL as error:
            raise _cannot_be_built(error, where) from error
    return _describe(model)


def _cannot_be_built(error: Exception, where: str) -> CheckpointError:
    reason = str(error).partition("\n")[0]
    hint = f"transformers {transformers.__version__} must know this model; a newer one may"
    return CheckpointError(f"no causal language model can be built: {reason}", where=where, hint=hint)


def _describe(model: Any) -> Architecture:
    ties = dict(model.all_tied_weights_keys)
    return Architecture(
        model=type(model).__name__,
        tied=bool(getattr(model.config, "tie_word_embeddings", False)),
        tensors={name: tensor for name, tensor in model.state_dict().items() if name not in ties},
        ties=ties,
        ignored=(*COMPUTED, *sorted(model._keys_to_ignore_on_load_unexpected or ())),  # noqa: SLF001
        spared=tuple(sorted(model._keys_to_ignore_on_load_missing or ())),  # noqa: SLF001
        vocabulary=model.get_input_embeddings().weight.shape[0],
        built=model,
    )
