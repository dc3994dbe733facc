"""Weighted sums of base and vectors, tensor by tensor, and the file in which the matched model is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.checkpoint.combine import result_specs
from dem_build.checkpoint.floats import CODES, FLOATS
from dem_build.checkpoint.header import kept_in
from dem_build.errors import CheckpointError
from dem_build.model.mapped import MappedVector, mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.checkpoint.writer import Writer
    from dem_build.model.weight_layout import TensorGroup, WeightLayout
    from dem_build.step import StoredFile

PIECE = 1 << 18  # elements: what is at work stays in a core's cache


@dataclass(frozen=True)
class Vectors:
    """What is composed.

    Attributes:
        files: ΔΘ_j, each checked against the base, in an order that no name reaches.
        importances: a_j of each, all above 0.
        prior: c of W₀ = Θ + c Σ_j (a_j / Σ a) ΔΘ_j; None: 1, and what is fitted finds its own.
    """

    files: Sequence[StoredFile]
    importances: Sequence[float]
    prior: float | None


class ModelSums:
    """Θ + Σ w ΔΘ of tensors, in the format in which the model is published.

    Each sum is float32, in the order of the vectors, and rounded once: what composing by Eq. 2 would write.

    Args:
        base: Θ, whose headers are read.
        vectors: ΔΘ_j, and what the prior is.
        deltas: The headers of ΔΘ_j, checked against the base.
        dtype: Of the published model, as recipes name it.
        layout: How the files' tensors are the model's.
    """

    def __init__(
        self,
        base: Checkpoint,
        vectors: Vectors,
        deltas: Sequence[Checkpoint],
        dtype: str,
        layout: WeightLayout,
    ) -> None:
        self.layout = layout
        self._tensors = base.tensors
        self.vectors = vectors
        self._kept, self.dtype = kept_in(base.metadata, CODES[dtype]), getattr(torch, dtype)
        self.specs = result_specs(base, CODES[dtype], self._kept)
        self._base = mapped({tensor.path for tensor in base.tensors.values()})
        self._deltas = [MappedVector(delta) for delta in deltas]
        self._changers: dict[str, tuple[int, ...]] = {}

    def group_of(self, name: str) -> TensorGroup | None:
        """What belongs together with one of the files' tensors; None for one that the model does not use."""
        return self.layout.of_file.get(name)

    def changers(self, name: str) -> tuple[int, ...]:
        """The vectors that are other than 0 in a tensor of the files, or in one that belongs together with it."""
        if name not in self._changers:
            group = self.group_of(name)
            names = (name,) if group is None else group.files
            found = tuple(i for i, d in enumerate(self._deltas) if not all(d.is_zero(n) for n in names))
            self._changers |= dict.fromkeys(names, found)
        return self._changers[name]

    def shares(self, name: str) -> dict[int, float]:
        """The weight of each vector in the prior of a tensor.

        A vector that leaves a tensor alone has no say in it; what one vector alone changes is as that one has it.
        """
        changers = self.changers(name)
        if len(changers) == 1:
            return {changers[0]: 1.0}
        importances, prior = self.vectors.importances, self.vectors.prior
        total = math.fsum(importances[i] for i in changers)
        return {i: (1.0 if prior is None else prior) * importances[i] / total for i in changers}

    def stored(self, name: str, weights: Mapping[int, float] | None = None) -> torch.Tensor:
        """One of the files' tensors, in its shape and its published format.

        Args:
            name: Its name.
            weights: Of each vector; None for the prior.
        """
        base = self._base[name]
        if self._tensors[name].dtype not in FLOATS:
            return base
        made = torch.empty(base.shape, dtype=torch.float32 if name in self._kept else self.dtype)
        weights = self.shares(name) if weights is None else weights
        for start in range(0, base.numel(), PIECE):
            total = self._base[name].view(-1)[start : start + PIECE].float()
            made.view(-1)[start : start + PIECE] = self._added(name, start, weights, total)
        return made

    def own(self, name: str, weights: Mapping[int, float] | None = None) -> torch.Tensor:
        """One of the model's tensors; arguments as of `stored`."""
        group = self.layout.of_own[name]
        return self.layout.to_model({n: self.stored(n, weights) for n in group.files})[name]

    def edit(self, name: str) -> torch.Tensor:
        """What the prior adds to the base in one of the model's tensors: float32, not rounded."""
        made = {}
        for file in self.layout.of_own[name].files:
            made[file] = torch.zeros(self._base[file].shape)
            flat, weights = made[file].view(-1), self.shares(file)
            for start in range(0, len(flat), PIECE):
                flat[start : start + PIECE] = self._added(file, start, weights, flat[start : start + PIECE])
        return self.layout.to_model(made)[name]

    def rows(self, name: str, rows: torch.Tensor, weights: Mapping[int, float] | None) -> torch.Tensor:
        """Some rows of one of the model's matrices that is a tensor of the files, [len(rows), width]."""
        [file] = self.layout.of_own[name].files
        weights = self.shares(file) if weights is None else weights
        base = self._base[file]
        total = base[rows].float()
        for i, weight in weights.items():
            total = total + self._deltas[i].rows(file, rows) * np.float32(weight).item()
        return total.to(torch.float32 if file in self._kept else self.dtype)

    def release(self) -> None:
        """Give back the memory of what was looked at of the files, which would else grow to all of base and vectors."""
        self._base.release()
        for delta in self._deltas:
            delta.release()

    def _added(
        self, name: str, start: int, weights: Mapping[int, float], total: torch.Tensor
    ) -> torch.Tensor:
        for i, weight in weights.items():
            total = total + self._deltas[i].part(name, start, start + PIECE) * np.float32(weight).item()
        return total


class Written:
    """The tensors of the model, written in the files' layout as they come, each once; `writer` must be entered."""

    def __init__(self, writer: Writer, sums: ModelSums) -> None:
        self._writer, self._sums = writer, sums
        self._due = dict.fromkeys(spec.name for spec in sums.specs)
        self._waiting: dict[str, torch.Tensor] = {}

    def set(self, name: str, tensor: torch.Tensor) -> None:
        """Write one of the model's tensors, in its published format.

        Raises:
            CheckpointError: It is not finite.
        """
        self._waiting[name] = tensor
        group = self._sums.layout.of_own[name]
        if all(own in self._waiting for own in group.own):
            made = self._sums.layout.to_files({own: self._waiting.pop(own) for own in group.own})
            for file, values in made.items():
                self._write(file, values)

    def rest(self, tell: Callable[[int], None]) -> None:
        """Write the prior of every tensor that was not set; `tell` is called with how many are left."""
        for name in list(self._due):
            self._write(name, self._sums.stored(name))
            self._sums.release()
            tell(len(self._due))

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{name} is not finite in {str(tensor.dtype).removeprefix('torch.')}",
                hint="the base or a vector is damaged, an importance is far too large, or the format too narrow",
            )
        del self._due[name]
        flat = tensor.detach().cpu().contiguous().view(-1)
        # numpy knows no bfloat16: its bits are written.
        bits = flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat
        self._writer.write(name, 0, bits.numpy())
