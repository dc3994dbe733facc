"""One resident model that becomes any candidate: Θ + Σ ω ΔΘ, from the base each time, rounded as it is published.

Nothing is written and nothing loaded again. The same tensors give the derivative of a loss to every ω: with
G = ∇_Θ L, ∂L/∂ω_i = ⟨G, ΔΘ_i⟩, and per layer the part of the sum that lies in it.

The model in float32 is all that stays. Base and vectors are read from their files, a tensor at a time, and let go of. A
gradient meets the vectors as soon as the backward pass has made it, and is gone before the next one is there.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.floats import CODES, FLOATS
from dem_build.checkpoint.header import kept_in
from dem_build.checkpoint.layers import layer_of, layers_of
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import EvaluationError
from dem_build.model.environment import device, memory_told
from dem_build.model.load import load_model
from dem_build.model.mapped import MappedVector, mapped
from dem_build.model.recomputed import recompute_layers
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import Digest
    from dem_build.model.weight_layout import TensorGroup
    from dem_build.step import Context, Group, Inputs

CHUNK = 1 << 18  # elements: what is at work stays in a core's cache
ROOM = 0.5  # share of a GPU's free memory that base and vectors may take beside the model


def vectors_of(groups: Iterable[Group]) -> dict[Digest, Path]:
    """The file of each vector, in the order of their digests."""
    return dict(sorted((g.digests["delta"], g.paths["delta"]) for g in groups if "delta" in g.digests))


def resident(inputs: Inputs, deltas: Mapping[Digest, Path], context: Context) -> Candidates:
    """Load the base in float32, to become one candidate after another.

    Raises:
        EvaluationError: Memory ran out.
        CheckpointError: A vector of another base, or weights that are not those of the config's model.
    """
    weights = inputs.paths["base/weights"]
    with memory_told(EvaluationError, "while loading the base in float32", "end what else takes memory"):
        model = load_model(
            weights,
            inputs.paths["base/config"],
            dtype=torch.float32,
            device=device(),
            attn_implementation=context.machine.attn_implementation,
        )
        if context.machine.gradient_checkpointing:
            recompute_layers(model)
        return Candidates(model, weights, inputs.digests["base/weights"], deltas)


class Candidates:
    """A loaded model, its base and its vectors.

    A backward pass leaves no gradients in the model: they are in what `take_slopes` returns.

    Args:
        model: Loaded from the base in float32; its parameters are overwritten.
        weights: The base's folder of weights.
        digest: Its digest.
        deltas: Digest → file of each vector, in the order of ω.

    Attributes:
        vectors: Digests of the vectors, in the order of ω's rows.
        layers: Names of the layers, in the order of ω's columns.
        layout: How the base's files hold the model's tensors.

    Raises:
        CheckpointError: A vector of another base.
    """

    def __init__(
        self, model: PreTrainedModel, weights: Path, digest: Digest, deltas: Mapping[Digest, Path]
    ) -> None:
        self.model, self.vectors = model, list(deltas)
        base = open_checkpoint(weights)
        vectors = [open_delta(p, base, digest, f"vector {name[:12]}…") for name, p in deltas.items()]
        self._shapes = {name: tensor.shape for name, tensor in base.tensors.items() if tensor.dtype in FLOATS}
        self.layout = WeightLayout(model, self._shapes)
        names = self.layout.of_file.keys()
        self.layers = layers_of([name for name in self._shapes if name in names])
        self._kept = {getattr(torch, n): kept_in(base.metadata, code) for n, code in CODES.items()}
        self._column = {name: self.layers.index(layer_of(name)) for name in names}
        self._own = model.state_dict(keep_vars=True)
        files = {info.path for info in base.tensors.values()}
        # On a GPU where they fit beside the model, and leave as much to the passes; else they are read again each time.
        size, place = sum(path.stat().st_size for path in (*files, *deltas.values())), torch.device("cpu")
        if model.device.type == "cuda" and size < ROOM * torch.cuda.mem_get_info(model.device)[0]:
            place = model.device
        self._base = mapped(files, names, place)
        self._deltas = [MappedVector(delta, names, place) for delta in vectors]
        # Of each group its files' tensors, and ⟨gradient, ΔΘ⟩ for each vector.
        self._met: dict[TensorGroup, dict[str, NDArray[np.float64]]] = {}
        self._take_as_they_come()

    @torch.no_grad()
    def become(self, omega: NDArray[np.float64], rounded_to: torch.dtype | None = None) -> None:
        """Set the model to a candidate.

        Args:
            omega: [vectors, layers].
            rounded_to: Round the sum to this type, as a composed model would be.
        """
        self._met.clear()  # of a pass that was broken off
        for group in self.layout.groups:
            if group.converter is None:  # in place
                self._sum(group.files[0], omega, rounded_to, self._own[group.own[0]].view(-1))
                continue
            # The files have these tensors in another layout than the model: the sum is made in the files' layout, where
            # base and vectors are, and then converted.
            sums = {n: torch.empty(self._shapes[n], device=self.model.device) for n in group.files}
            for name, values in sums.items():
                self._sum(name, omega, rounded_to, values.view(-1))
            for name, values in self.layout.to_model(sums).items():
                self._own[name].copy_(values)

    def _sum(
        self, name: str, omega: NDArray[np.float64], rounded_to: torch.dtype | None, flat: torch.Tensor
    ) -> None:
        """Write a tensor of the candidate into `flat`."""
        # From the base and in the order of digests, as composing adds them; never from the candidate before, whose
        # rounding would then be in this one, and the same ω would not be the same model.
        weights = omega[:, self._column[name]].astype(np.float32).tolist()
        rounded = rounded_to is not None and name not in self._kept[rounded_to]
        # Vectors of ω = 0 are not read: most candidates of many vectors have a part of few.
        terms = [(d, w) for d, w in zip(self._deltas, weights, strict=True) if w]
        starts, base = range(0, flat.numel(), CHUNK), self._base[name].view(-1)
        for start in starts:
            flat[start : start + CHUNK] = base[start : start + CHUNK].to(flat.device, torch.float32)
        self._base.release()
        # One vector after another: of several, no more than one has a tensor in memory.
        for delta, weight in terms:
            for start in starts:
                part = delta.part(name, start, start + CHUNK, flat.device)
                flat[start : start + CHUNK] += part * weight
            delta.release()
        for start in starts if rounded else ():
            flat[start : start + CHUNK] = flat[start : start + CHUNK].to(rounded_to)

    @torch.no_grad()
    def take_slopes(self) -> NDArray[np.float64]:
        """Return ⟨gradient, ΔΘ⟩ for each vector and layer, [vectors, layers], of all backward passes since the last."""
        for group in self.layout.groups:
            # A tensor that no row reached has no gradient, but the conversion takes all of its group.
            if any(self._own[name].grad is not None for name in group.own):
                self._meet(group)
        self.model.zero_grad(set_to_none=True)
        slopes = np.zeros((len(self._deltas), len(self.layers)))
        # In the order of the files, whatever the order in which gradients came.
        for group in self.layout.groups:
            for name, products in self._met.get(group, {}).items():
                slopes[:, self._column[name]] += products
        self._met.clear()
        return slopes

    def _take_as_they_come(self) -> None:
        """Have each gradient taken and let go of as soon as the backward pass has made it."""
        groups: dict[torch.Tensor, list[TensorGroup]] = {}
        for group in self.layout.groups:
            for own in {self._own[name] for name in group.own}:
                groups.setdefault(own, []).append(group)
        # Hooks that held what holds the model would keep it in memory until Python looks for cycles.
        take = weakref.WeakMethod(self._take)
        for own, of in groups.items():
            if own.requires_grad:  # no buffer
                hooked: Any = own
                hooked.register_post_accumulate_grad_hook(partial(_call, take, of))

    @torch.no_grad()
    def _take(self, groups: Sequence[TensorGroup]) -> None:
        """Take the gradients of some groups, unless one of them is still to come."""
        own = {self._own[name] for group in groups for name in group.own}
        if all(tensor.grad is not None for tensor in own):
            for group in groups:
                self._meet(group)
            for tensor in own:
                tensor.grad = None

    def _meet(self, group: TensorGroup) -> None:
        own = {name: self._own[name] for name in group.own}
        gradients = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in own.items()}
        met = self._met.setdefault(group, {})
        for name, gradient in self.layout.to_files(gradients).items():
            met[name] = self._dots(name, gradient.reshape(-1)) + met.get(name, 0.0)

    def _dots(self, name: str, gradient: torch.Tensor) -> NDArray[np.float64]:
        # Chunks are summed in float64: a tensor has millions of products, of both signs, and what is left of them is
        # far smaller than they are.
        sums = torch.zeros(len(self._deltas), dtype=torch.float64, device=gradient.device)
        for i, delta in enumerate(self._deltas):
            for start in range(0, gradient.numel(), CHUNK):
                part = gradient[start : start + CHUNK]
                sums[i] += torch.dot(part, delta.part(name, start, start + CHUNK, gradient.device))
            delta.release()
        return np.asarray(sums.cpu().numpy())


def _call(take: weakref.WeakMethod[Any], groups: Sequence[TensorGroup], _: torch.Tensor) -> None:
    if (found := take()) is not None:
        found(groups)
