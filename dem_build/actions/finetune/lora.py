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

from dem_build.checkpoint.factors import LowRank
from dem_build.errors import TrainingError
from dem_build.model.linear_layers import OTHER_TARGETS, linear_targets, places_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.checkpoint.factors import Place
    from dem_build.digest import JSON

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
        found = linear_targets(model, params["lora_target_modules"])
        self.places = places_of(model, names, found)
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
            raise TrainingError(
                f"peft puts adapters elsewhere than dem asks for: {odd[0]}", hint=OTHER_TARGETS
            )

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
