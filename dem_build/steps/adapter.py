"""A LoRA adapter merged into the base by peft, with nothing taken on trust.

The base is loaded in float32 on the CPU, whatever the machine has: 4 bytes a parameter. Of the adapter's config only
keys that say what it adds are used, its weights must be exactly what the config asks for, and the merged model must
compute what base and adapter do.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError

from dem_build.errors import CheckpointError
from dem_build.finetuned import ADAPTER_KEYS, ADAPTER_WEIGHTS
from dem_build.steps.models import load_model, quiet
from dem_build.steps.weights import named_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import JSON
    from dem_build.steps.api import Inputs

__all__ = ["merged_weights"]

OF_THIS_BASE = "take an adapter that was trained on this base"
TOKENS = 16  # of the row by which adapter and merged model are compared
TOLERANCE = 1e-3  # share of the largest logit: float32 differs by less, another model by more


def merged_weights(
    inputs: Inputs, config: Mapping[str, JSON], names: Sequence[str], note: Callable[[str], None]
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Yield the base's weights with an adapter merged into them, in float32; None where the model uses none.

    Args:
        inputs: `base/weights` and `base/config`, and the adapter's files as sources.
        config: The adapter's config.
        names: The tensors of the base's files.
        note: Called with what the user should know.

    Raises:
        CheckpointError: An adapter of another base, a damaged one, or one that cannot be merged.
    """
    [adapter] = [s.path for s in inputs.sources if s.tag == ADAPTER_WEIGHTS]
    where = inputs.sources[0].origin
    base = load_model(
        inputs.paths["base/weights"],
        inputs.paths["base/config"],
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    with quiet(), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # what peft warns of, as of tied embeddings, is checked here
        tied = _is_tied(base)
        model = _merge(_with_adapter(base, config, adapter, where, note), where, tied=tied)
    for name, tensor in named_weights(model, names).items():
        yield name, None if tensor is None else tensor.detach().float().numpy()


def _with_adapter(
    base: PreTrainedModel,
    config: Mapping[str, JSON],
    adapter: Path,
    where: str,
    note: Callable[[str], None],
) -> Any:
    used: dict[str, Any] = {key: config[key] for key in ADAPTER_KEYS if config.get(key) is not None}
    try:
        state = safetensors.torch.load_file(adapter)
        model = get_peft_model(base, LoraConfig(**used))
        loaded: Any = set_peft_model_state_dict(
            model, _with_rows(model, state, note)
        )  # torch's _IncompatibleKeys
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[1] if len(lines) > 1 and "loading state_dict" in lines[0] else " ".join(lines[:1])
        what = f"the adapter does not fit the base: {reason or type(error).__name__}"
        raise CheckpointError(what, where=where, hint=OF_THIS_BASE) from error
    missing = sorted(key for key in loaded.missing_keys if ".default" in key)
    for keys, word in ((loaded.unexpected_keys, "has no place for"), (missing, "asks for, and it lacks,")):
        if keys:
            what = f"the adapter does not fit: its config {word} {len(keys)} of its weights, first {keys[0]}"
            raise CheckpointError(what, where=where, hint=OF_THIS_BASE)
    return model.eval()


def _with_rows(
    model: Any, state: Mapping[str, torch.Tensor], note: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """Return an adapter's weights with rows for tokens that the base alone has: as they start, they add nothing."""
    rows = model.get_input_embeddings().weight.shape[0]
    start = get_peft_model_state_dict(model, save_embedding_layers=True)
    grown = dict(state)
    for name, values in state.items():
        if name not in start or start[name].dim() != values.dim():
            continue
        pairs = zip(start[name].shape, values.shape, strict=True)
        differing = [at for at, (ours, theirs) in enumerate(pairs) if ours != theirs]
        if len(differing) == 1 and start[name].shape[differing[0]] == rows > values.shape[differing[0]]:
            had = values.shape[differing[0]]
            kept = start[name].detach().narrow(differing[0], had, rows - had)
            grown[name] = torch.cat([values, kept.to(values.dtype)], differing[0])
            note(f"{name} has no rows for the last {rows - had} tokens of the base, which stay as they are")
    return grown


def _merge(model: Any, where: str, *, tied: bool) -> PreTrainedModel:
    """Merge, and check on a few tokens that the result computes what base and adapter do."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    row = torch.arange(1, TOKENS + 1).mul(7919).remainder(vocabulary)[None]
    told = model(input_ids=row).logits
    try:
        merged: PreTrainedModel = model.merge_and_unload()
    except (ValueError, NotImplementedError, RuntimeError) as error:
        what = f"the adapter cannot be merged: {str(error).partition(chr(10))[0]}"
        raise CheckpointError(what, where=where) from error
    found: torch.Tensor = merged(input_ids=row).logits
    if not torch.isfinite(told).all():
        hint = "its training diverged, or its file is damaged: take another"
        raise CheckpointError("the adapter makes logits NaN or infinite", where=where, hint=hint)
    same = float((told - found).abs().max()) <= TOLERANCE * float(told.abs().max())
    if not same or tied != _is_tied(merged):
        raise CheckpointError(
            "merged into the base, the adapter computes something else: it changes embeddings or a head that the "
            "base ties to each other",
            where=where,
            hint="train it without embed_tokens and lm_head",
        )
    return merged


def _is_tied(model: Any) -> bool:
    """Return whether embeddings and head are one tensor now, whatever the config says."""
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
