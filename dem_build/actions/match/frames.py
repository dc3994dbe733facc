"""A model without weights, whose modules get theirs when it is their turn, and halt a pass before it."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from dem_build.actions.match.passes import halt_before, halt_for
from dem_build.errors import CheckpointError
from dem_build.model.architecture import parse_config
from dem_build.model.load import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from dem_build.digest import JSON

Linear = nn.Linear | Conv1D
HINT = 'compose this model with method = "dem"'


def refused(what: str) -> CheckpointError:
    """What is raised of a model that cannot be matched."""
    return CheckpointError(f"cannot be matched: {what}", where="the model", hint=HINT)


def empty_model(config: JSON, attention: str | None) -> PreTrainedModel:
    """The model of a `config.json` in evaluation mode, without its weights; what is computed at its start is there.

    Args:
        config: The document.
        attention: Attention kernel as transformers names it; None for its default.

    Raises:
        CheckpointError: transformers does not know such a model.
    """
    parsed = parse_config(config, "config.json")
    auto: Any = AutoModelForCausalLM  # its methods carry no types
    with quiet(), init_empty_weights(include_buffers=False):
        model: Any = auto.from_config(
            parsed, trust_remote_code=False, attn_implementation=attention, dtype=torch.float32
        )
    return cast("PreTrainedModel", model.eval())


class Frame:
    """The body of a model, whose linear modules in its layers can be matched.

    One serves the rows of all models: a deep one's modules without weights take more than what is computed. What a pass
    meets are the tensors that were set last; of a linear module that is its bias at most, and never its weight.

    Args:
        model: Without weights; a copy of it is made.
        device: Where it gets its weights.

    Attributes:
        body: All but the head.
        layers: The decoder layers by name, in their order.
        linear: The linear modules in them by name.
        embedding: Name of the matrix that has a row for each token.

    Raises:
        CheckpointError: It has no decoder layers, or weights in them that are in no linear module.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        copied: Any = deepcopy(model)
        self._device = device
        self.body: Any = copied.base_model
        self._names = {module: name for name, module in copied.named_modules()}
        self.embedding = f"{self._names[copied.get_input_embeddings()]}.weight"
        self.layers = self._find_layers()
        self.linear: dict[str, Linear] = {}
        self._shapes: dict[str, tuple[int, int]] = {}  # outputs, width
        ties: Any = copied.all_tied_weights_keys
        for name, layer in self.layers.items():
            if shared := sorted(set(self._tensors(name)) & set(ties)):
                raise refused(f"{shared[0]} is {ties[shared[0]]} under a second name")
            self._add_linear(layer)
            halt_before(layer)
        for linear in self.linear.values():
            halt_for(linear)
        for module in copied.modules():
            for leaf, buffer in module._buffers.items():  # noqa: SLF001
                module._buffers[leaf] = buffer if buffer is None else buffer.to(device)  # noqa: SLF001

    def name_of(self, module: nn.Module | None) -> str | None:
        """A module's name."""
        return None if module is None else self._names[module]

    def outside(self) -> list[str]:
        """The tensors of the body that are in no layer, but for the embedding."""
        inside = {name for layer in self.layers for name in self._tensors(layer)}
        return [n for n in self._tensors(self._names[self.body]) if n not in inside and n != self.embedding]

    def beside(self, layer: str) -> list[str]:
        """The tensors of a layer that are not the weights of linear modules."""
        return [n for n in self._tensors(layer) if n.removesuffix(".weight") not in self.linear]

    def taken(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as the model has it: where it computes, and in float32 but for weights of linear modules."""
        # The residual stream is float32, as in training; what linear modules compute is not.
        wide = tensor.is_floating_point() and name.removesuffix(".weight") not in self.linear
        return tensor.to(self._device, torch.float32 if wide else None)

    def set(self, name: str, tensor: torch.Tensor | None) -> None:
        """Give a tensor its values, as `taken` has them; None takes them away."""
        module, leaf = self._place(name)
        if tensor is None:
            tensor = torch.empty(self.shape(name), device="meta")
        if leaf in module._parameters:  # noqa: SLF001
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)  # noqa: SLF001
        else:
            module._buffers[leaf] = tensor  # noqa: SLF001

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        module, leaf = self._place(name)
        return tuple(getattr(module, leaf).shape)

    def apply(
        self, name: str, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """What a linear module of this weight and bias makes of some inputs, [tokens, outputs]."""
        if isinstance(self.linear[name], Conv1D):
            assert bias is not None  # it always has one
            return torch.addmm(bias, values, weight)
        return nn.functional.linear(values, weight, bias)

    def width(self, linear: str) -> int:
        """Inputs of a linear module."""
        return self._shapes[linear][1]

    def outputs(self, linear: str) -> int:
        """Outputs of a linear module."""
        return self._shapes[linear][0]

    def turned(self, linear: str, matrix: torch.Tensor) -> torch.Tensor:
        """A matrix [width, outputs] as the module has its weight."""
        return matrix if isinstance(self.linear[linear], Conv1D) else matrix.T

    def _place(self, name: str) -> tuple[Any, str]:
        path, _, leaf = name.rpartition(".")
        return self._modules[path], leaf

    @cached_property
    def _modules(self) -> Mapping[str, nn.Module]:
        return {name: module for module, name in self._names.items()}

    def _tensors(self, name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        return [prefix + leaf for leaf in self._modules[name].state_dict()]

    def _find_layers(self) -> dict[str, nn.Module]:
        lists = [
            found
            for found in self.body.modules()
            if isinstance(found, nn.ModuleList)
            and len(found)
            and all(isinstance(layer, GradientCheckpointingLayer) for layer in found)
        ]
        if not lists:
            raise refused(f"{type(self.body).__name__} has no list of decoder layers")
        return {self._names[layer]: layer for found in lists for layer in found}

    def _add_linear(self, layer: nn.Module) -> None:
        for module in layer.modules():
            if type(module) in (nn.Linear, Conv1D):
                linear = self._names[module]
                self.linear[linear] = cast("Linear", module)
                shape = cast("torch.Tensor", module.weight).shape
                self._shapes[linear] = (
                    (shape[1], shape[0]) if isinstance(module, Conv1D) else (shape[0], shape[1])
                )
                continue
            for leaf, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    what = f"{self._names[module]}.{leaf}, a tensor of a {type(module).__name__}"
                    raise refused(f"{what}, is the weight of no linear module")
