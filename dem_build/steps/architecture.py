"""What weights a config's model has: built without memory, so that a checkpoint can be held against it."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from dem_build.errors import CheckpointError
from dem_build.steps.models import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON

__all__ = ["Architecture", "Names", "architecture", "empty_model", "parse_config", "resolve_names"]

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
        shapes: Name → shape of each tensor that must be stored.
        ties: Name of a tensor that is another one under a second name → that one.
        floats: Names of the tensors that hold floats.
        ignored: Patterns of names that a checkpoint may hold and that are not used.
        vocabulary: Rows of the word embeddings.
        prefix: What the name of the body's tensors begins with; a checkpoint of the body alone lacks it.
    """

    model: str
    tied: bool
    shapes: Mapping[str, tuple[int, ...]]
    ties: Mapping[str, str]
    floats: frozenset[str]
    ignored: tuple[str, ...]
    vocabulary: int
    prefix: str


@dataclass(frozen=True)
class Names:
    """How a checkpoint's tensors are the architecture's.

    Attributes:
        held: The architecture's name → the checkpoint's.
        twins: The checkpoint's name of a second copy of a tied tensor → its twin's, in the checkpoint too.
    """

    held: Mapping[str, str]
    twins: Mapping[str, str]


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
    return _describe(empty_model(config, where))


def empty_model(config: JSON, where: str) -> Any:
    """Return the model of a `config.json` without memory for its weights, on the device `meta`.

    Raises:
        CheckpointError: transformers knows no causal language model of this config.
    """
    parsed = parse_config(config, where)
    with quiet():
        try:
            with torch.device("meta"):
                auto: Any = AutoModelForCausalLM  # its methods carry no types
                return auto.from_config(parsed, trust_remote_code=False)
        except UNKNOWN_MODEL as error:
            raise _cannot_be_built(error, where) from error


def _cannot_be_built(error: Exception, where: str) -> CheckpointError:
    reason = str(error).partition("\n")[0]
    hint = f"transformers {transformers.__version__} must know this model; a newer one may"
    return CheckpointError(f"no causal language model can be built: {reason}", where=where, hint=hint)


def resolve_names(weights: Architecture, stored: Iterable[str], where: str) -> Names:
    """Find each of the architecture's tensors in a checkpoint.

    Raises:
        CheckpointError: A tensor that is missing, or one that the architecture does not have.
    """
    held: dict[str, str] = {}
    twins: dict[str, str] = {}
    extra: list[str] = []
    for name in stored:
        own = _own_name(weights, name)
        if own is not None:
            (twins if own in weights.ties else held)[own] = name
        elif not any(re.search(pattern, name) for pattern in weights.ignored):
            extra.append(name)
    for twin in sorted(twins):
        # A checkpoint may hold a tied tensor only under its second name.
        if weights.ties[twin] not in held:
            held[weights.ties[twin]] = twins.pop(twin)
    _refuse_differences(weights, sorted(weights.shapes.keys() - held.keys()), sorted(extra), where)
    return Names(held, {name: held[weights.ties[twin]] for twin, name in twins.items()})


def _describe(model: Any) -> Architecture:
    ties = dict(model.all_tied_weights_keys)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    return Architecture(
        model=type(model).__name__,
        tied=bool(getattr(model.config, "tie_word_embeddings", False)),
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        ties=ties,
        floats=frozenset(name for name, tensor in state.items() if tensor.is_floating_point()),
        ignored=(*COMPUTED, *sorted(model._keys_to_ignore_on_load_unexpected or ())),  # noqa: SLF001
        vocabulary=model.get_input_embeddings().weight.shape[0],
        prefix=f"{model.base_model_prefix}.",
    )


def _own_name(weights: Architecture, stored: str) -> str | None:
    for name in (stored, weights.prefix + stored):
        if name in weights.shapes or name in weights.ties:
            return name
    return None


def _refuse_differences(weights: Architecture, missing: list[str], extra: list[str], where: str) -> None:
    if not missing and not extra:
        return
    parts = [f"{weights.model} has {_some(missing)}, and the files do not"] if missing else []
    parts += [f"the files hold {_some(extra)}, and {weights.model} does not"] if extra else []
    hint = "config.json and the weights must be of one model, whole"
    if missing == ["lm_head.weight"]:
        hint = 'where the head is the embeddings, config.json must say "tie_word_embeddings": true'
    raise CheckpointError("; ".join(parts), where=where, hint=hint)


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
