"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in place of all weights: put into a model by peft.

A linear layer computes W x + scale · B A x, with scale = lora_alpha / lora_r. W and all else stay as they are, without
gradients or an optimizer's states. B begins as zeros, and A by the seed. What is learned is stored as the factors
(`checkpoint/factors.py`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from dem_build.checkpoint.factors import LowRank, Place
from dem_build.errors import TrainingError
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import JSON

__all__ = ["Adapters"]

ALL_LINEAR = "all-linear"
ADAPTER = "default"  # peft's name for an adapter that has none


class Adapters:
    """The adapters of a model: it is frozen, and they alone are trained.

    Args:
        model: As `load_model` gave it, in float32; its linear layers are wrapped.
        names: The tensors of the file that it was loaded from.
        params: Of the kind `finetune`, with `method = "lora"`.

    Attributes:
        places: Name of a tensor of the file → the module that it is the weight of.

    Raises:
        TrainingError: A target that the model has no linear layer for, or whose weight is not one by itself.
    """

    def __init__(self, model: PreTrainedModel, names: Iterable[str], params: Mapping[str, JSON]) -> None:
        found = _targets(model, params["lora_target_modules"])
        self.places = _places(model, names, found)
        # Of the seed alone, as Trainer sets it only later; on the CPU whatever the device is, where peft makes them.
        torch.manual_seed(params["seed"])
        config = LoraConfig(
            r=params["lora_r"],
            lora_alpha=params["lora_alpha"],
            lora_dropout=params["lora_dropout"],
            target_modules=list(found),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set")  # peft sets it right, layer by layer
            inject_adapter_in_model(config, model)
        self._layers = {path: m for path, m in model.named_modules() if isinstance(m, LoraLayer)}
        if self._layers.keys() != found.keys():
            odd = sorted(self._layers.keys() ^ found.keys())
            raise TrainingError(f"peft puts adapters elsewhere than dem asks for: {odd[0]}", hint=_ELSE)

    def factors(self) -> dict[str, tuple[LowRank[NDArray[np.float32]], Place]]:
        """Name of each tensor of the file that has an adapter → its factors, and where they were."""
        return {name: (self._factors(place), place) for name, place in self.places.items()}

    def _factors(self, place: Place) -> LowRank[NDArray[np.float32]]:
        layer: Any = self._layers[place.module]
        b, a = (
            half[ADAPTER].weight.detach().float().cpu().contiguous().numpy()
            for half in (layer.lora_B, layer.lora_A)
        )
        # (B A)ᵀ = Aᵀ Bᵀ: of a weight that is kept as [inputs, outputs].
        first, second = (a.T, b.T) if place.transposed else (b, a)
        return LowRank(first, second, float(layer.scaling[ADAPTER]))


_ELSE = 'name other modules in lora_target_modules, or train with method = "full"'


def _targets(model: PreTrainedModel, wanted: str | list[str]) -> dict[str, torch.nn.Module]:
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


def _places(
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
            raise TrainingError(what, hint=_ELSE)
        if group is None or group.converter is not None:
            what = (
                f"{path} can have no adapter: the base's files do not have its weight as a tensor by itself"
            )
            raise TrainingError(what, hint=_ELSE)
        places[group.files[0]] = Place(path, isinstance(module, Conv1D))
    return places
