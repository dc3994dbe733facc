"""One resident model that becomes any candidate: Θ + Σ ω ΔΘ in float32, always from the base, in place.

Nothing is written and nothing loaded again. The same tensors give the derivative of a loss to every ω: with
G = ∇_Θ L, ∂L/∂ω_i = ⟨G, ΔΘ_i⟩, and per layer the part of the sum that lies in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from dem_build.checkpoint import FLOATS, open_checkpoint, open_delta
from dem_build.checkpoint.layers import layer_of, layers_of
from dem_build.errors import CheckpointError
from dem_build.steps.weights import named_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import Digest

__all__ = ["Candidates"]

CHUNK = 1 << 18  # elements: what is at work stays in a core's cache
ROOM = 0.5  # share of a GPU's free memory that base and vectors may take beside the model


class Candidates:
    """A loaded model, its base and its vectors.

    Args:
        model: Loaded from the base in float32; its parameters are overwritten.
        weights: The base's folder of weights.
        digest: Its digest.
        deltas: Digest → file of each vector, in the order of ω.

    Attributes:
        vectors: Digests of the vectors, in the order of ω's rows.
        layers: Names of the layers, in the order of ω's columns.

    Raises:
        CheckpointError: A vector of another base, or an architecture whose weights are regrouped while loading.
    """

    def __init__(
        self, model: PreTrainedModel, weights: Path, digest: Digest, deltas: Mapping[Digest, Path]
    ) -> None:
        self.model, self.vectors = model, list(deltas)
        base = open_checkpoint(weights)
        for name, path in deltas.items():
            open_delta(path, base, digest, f"vector {name[:12]}…")
        names = [name for name, tensor in base.tensors.items() if tensor.dtype in FLOATS]
        live = _live(model, names)
        self.layers = layers_of(list(live))
        self._column = {name: self.layers.index(layer_of(name)) for name in live}
        self._parameters = live
        files = {info.path for info in base.tensors.values()}
        place = _place(model.device, [*files, *deltas.values()])
        self._base = _tensors(files, live, place)
        self._deltas = [_tensors({path}, live, place) for path in deltas.values()]

    @torch.no_grad()
    def become(self, omega: NDArray[np.float64], rounded_to: torch.dtype | None = None) -> None:
        """Set the model to a candidate.

        Args:
            omega: [vectors, layers].
            rounded_to: Round the sum to this type, as a composed model would be.
        """
        for name, parameter in self._parameters.items():
            weights = omega[:, self._column[name]].astype(np.float32).tolist()
            terms = [(d[name], w) for d, w in zip(self._deltas, weights, strict=True) if w]
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), CHUNK):
                part = slice(start, start + CHUNK)
                total = self._base[name][part].to(flat.device, torch.float32)
                for delta, weight in terms:
                    total = total + delta[part].to(flat.device, torch.float32) * weight
                flat[part] = total if rounded_to is None else total.to(rounded_to).float()

    @torch.no_grad()
    def take_slopes(self) -> NDArray[np.float64]:
        """Return ⟨gradient, ΔΘ⟩ for each vector and layer, [vectors, layers], and clear the gradients."""
        slopes = np.zeros((len(self._deltas), len(self.layers)))
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                slopes[:, self._column[name]] += self._dots(name, parameter.grad.view(-1))
        self.model.zero_grad(set_to_none=True)
        return slopes

    def _dots(self, name: str, gradient: torch.Tensor) -> NDArray[np.float64]:
        sums = torch.zeros(len(self._deltas), dtype=torch.float64, device=gradient.device)
        for start in range(0, gradient.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            for i, delta in enumerate(self._deltas):
                sums[i] += torch.dot(gradient[part], delta[name][part].to(gradient.device, torch.float32))
        return np.asarray(sums.cpu().numpy())


def _live(model: PreTrainedModel, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the model's own parameters by the names of the base's file; no tied one twice."""
    by_address = {p.data_ptr(): p for p in model.parameters()}
    found: dict[str, torch.Tensor] = {}
    for name, tensor in named_weights(model, names).items():
        if tensor is None:
            continue
        parameter = by_address.get(tensor.data_ptr())
        # A part of a parameter, or its transpose, begins where the parameter does.
        if parameter is not None and parameter.is_contiguous() and _same_layout(parameter, tensor):
            found[name] = by_address.pop(tensor.data_ptr())
    if by_address:
        raise CheckpointError(
            "this model's weights are regrouped while loading (a mixture of experts): tuning cannot do that yet",
            hint="give each ω a number",
        )
    return found


def _same_layout(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride()


def _place(device: torch.device, files: Sequence[Path]) -> torch.device:
    """Return where base and vectors are kept: on the GPU where they fit, else mapped from their files."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(path.stat().st_size for path in files) < ROOM * free:
            return device
    return torch.device("cpu")


def _tensors(files: set[Path], names: Mapping[str, Any], place: torch.device) -> dict[str, torch.Tensor]:
    """Return flat tensors in their stored type; on the CPU they are mapped, not read."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(files):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                if name in names:
                    found[name] = file.get_tensor(name).view(-1).to(place)
    return found
