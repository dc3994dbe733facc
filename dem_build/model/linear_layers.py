"""The linear layers of a model that low-rank adapters go beside, and the tensors of its files that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from dem_build.checkpoint.factors import Place
from dem_build.errors import TrainingError
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
OTHER_TARGETS = 'name other modules in lora_target_modules, or train with method = "full"'


def linear_places(model: PreTrainedModel, names: Iterable[str]) -> dict[str, Place]:
    """Where an adapter has the linear layers of a model, but for its head.

    Raises:
        TrainingError: A layer whose weight is no tensor of the files by itself.
    """
    return places_of(model, names, linear_targets(model, ALL_LINEAR))


def linear_targets(model: PreTrainedModel, wanted: str | list[str]) -> dict[str, torch.nn.Module]:
    """The linear layers that get an adapter; of `all-linear` all but the head, as peft has it."""
    linear = {path: module for path, module in model.named_modules() if _is_linear(module)}
    if wanted == ALL_LINEAR:
        of: Any = model  # whose methods carry no types
        head = of.get_output_embeddings()
        return {path: module for path, module in linear.items() if module is not head}
    found = {name: [p for p in linear if p == name or p.endswith(f".{name}")] for name in wanted}
    # peft takes what it finds, and says nothing of a name without a module where another one has some.
    if lost := [name for name, paths in found.items() if not paths]:
        has = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in linear))
        what = f"lora_target_modules names {lost[0]}, and the base has no linear layer of that name"
        raise TrainingError(what, hint=f"it has {has}")
    return {path: module for path, module in linear.items() if any(path in paths for paths in found.values())}


@torch.no_grad()
def _is_linear(module: torch.nn.Module) -> bool:
    """Whether a module is a linear layer, and not one that is derived from it and computes something else."""
    if type(module) in (torch.nn.Linear, Conv1D):
        return True
    if not isinstance(module, torch.nn.Linear):
        return False
    # Falcon's layers are linear ones. The routers of Llama 4 and Phi-MoE are not: they return a choice of experts.
    try:
        made = module(module.weight.new_zeros(1, module.in_features))
    except (IndexError, RuntimeError, ValueError):  # it takes inputs of another shape
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, module.out_features)


def places_of(
    model: PreTrainedModel, names: Iterable[str], targets: Mapping[str, torch.nn.Module]
) -> dict[str, Place]:
    """The tensor of the file that each target's weight is."""
    layout, places = WeightLayout(model, names), {}
    tied: Any = model.all_tied_weights_keys
    for path, module in targets.items():
        own = f"{path}.weight"
        group = layout.of_own.get(own)
        if own in tied or own in tied.values():
            what = f"lora_target_modules names {path}, which the base ties to its embeddings"
            raise TrainingError(what, hint=OTHER_TARGETS)
        if group is None or group.converter is not None:
            what = (
                f"{path} can have no adapter: the base's files do not have its weight as a tensor by itself"
            )
            raise TrainingError(what, hint=OTHER_TARGETS)
        places[group.files[0]] = Place(path, isinstance(module, Conv1D))
    return places
