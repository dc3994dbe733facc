"""A loaded model that becomes any sum of its base and vectors, in memory: the weights that `compose` would write.

`compose` writes to files what is written here to the parameters, by the same code. So each element is computed from the
base each time, never from the model before, whose rounding would then be in it: at the same ω it is the same model, bit
for bit, however it got there.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.actions.compose.methods import EDIT, METHODS
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.floats import CODES
from dem_build.checkpoint.header import ITEM_SIZES, kept_in
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.hardware import let_open
from dem_build.model.environment import device
from dem_build.model.load import load_model
from dem_build.model.mapped import DTYPES
from dem_build.model.weight_layout import WeightLayout
from dem_build.wording import vector_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.checkpoint.header import TensorSpec
    from dem_build.digest import JSON, Digest

Omegas = dict["Digest", "float | dict[str, float]"]
"""ω of each vector, by its digest: a number, or one for each layer."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a model that vectors are added to lies.

    Attributes:
        weights: Its folder of weights.
        digest: The digest of that folder.
        config: Its `config.json`.
    """

    weights: Path
    digest: Digest
    config: Path


def load_live(
    base: ModelFiles, deltas: Mapping[Digest, Path], dtype: str, *, attn_implementation: str | None = None
) -> LiveModel:
    """Load a base, to become what its vectors make of it.

    Args:
        base: Θ.
        deltas: Digest → file of each vector.
        dtype: Of the parameters: that of the composed model, in which every model is judged.
        attn_implementation: As of `load_model`.

    Raises:
        CheckpointError: A vector of another base, or weights that are not those of the config's model.
        UsageError: There are more files than a process may have open.
    """
    let_open(f"a model of {len(deltas)} vectors", len(deltas) + len([*base.weights.iterdir()]))
    model = load_model(
        base.weights,
        base.config,
        dtype=getattr(torch, dtype),
        device=device(),
        attn_implementation=attn_implementation,
    )
    return LiveModel(model, base, deltas, dtype)


class LiveModel:
    """A loaded model, and its base and vectors, whose files it holds open until it is closed.

    Args:
        model: Loaded from the base in `dtype`; its parameters are overwritten.
        base: As of `load_live`, as are the others.
        deltas: Likewise.
        dtype: Likewise.

    Raises:
        CheckpointError: A vector of another base.
    """

    def __init__(
        self, model: PreTrainedModel, base: ModelFiles, deltas: Mapping[Digest, Path], dtype: str
    ) -> None:
        self.model = model
        self._held = ExitStack()
        opened = open_checkpoint(base.weights)
        self._deltas = {
            digest: self._held.enter_context(open_delta(path, opened, base.digest, vector_name(digest)))
            for digest, path in sorted(deltas.items())
        }
        self._base = self._held.enter_context(opened)
        self._code = CODES[dtype]
        self._kept = kept_in(opened.metadata, self._code)
        self._layout = WeightLayout(model, opened.tensors)
        self._own = model.state_dict(keep_vars=True)
        # What it is; as it was loaded.
        self._is: Combination | None = self._combination(EDIT.name, {}, {})

    def close(self) -> None:
        """Close the files."""
        self._held.close()

    def become(self, method: str, params: Mapping[str, JSON], omegas: Omegas, threads: int = 1) -> bool:
        """Set the model to what `compose` makes; return whether it was anything else. If that fails, it is what it was.

        Args:
            method: A way to compose that sums.
            params: The method's keys of `[compose]`.
            omegas: ω of each vector that takes part, none of them 0.
            threads: Threads that compute.

        Raises:
            CheckpointError: A sum that is not finite.
        """
        wanted = self._combination(method, params, omegas)
        if wanted == self._is:
            return False
        # Not known while tensors are written: another Ctrl-C may end what puts them back.
        before, self._is = self._is, None
        try:
            self._write(wanted, threads)
        except BaseException:  # Ctrl-C, too
            if before is not None:
                self._write(before, threads)  # some tensors are those of the sum that was not finished
                self._is = before
            raise
        self._is = wanted
        return True

    def _combination(self, method: str, params: Mapping[str, JSON], omegas: Omegas) -> Combination:
        given = dict(sorted(omegas.items()))
        return Combination(
            self._base,
            [self._deltas[digest] for digest in given],
            list(given.values()),
            METHODS[method],
            self._code,
            self._kept,
            params,
            list(given),
        )

    @torch.no_grad()
    def _write(self, what: Combination, threads: int) -> None:
        memory = _Memory()
        beside: dict[str, torch.Tensor] = {}
        for spec in result_specs(self._base, self._code, self._kept):
            group = self._layout.of_file.get(spec.name)
            own = self._own[group.own[0]] if group is not None and group.converter is None else None
            if own is not None and _is_stored_as(own, spec):
                memory.hold(spec, own)
                continue
            # On a GPU, of another type, or in another layout: written beside the model, and then converted.
            memory.hold(spec, made := torch.empty(spec.shape, dtype=DTYPES[spec.dtype]))
            if group is not None:
                beside[spec.name] = made
        combine(what, memory, threads=threads)
        for group in dict.fromkeys(self._layout.of_file[name] for name in beside):
            converted = self._layout.to_model({name: beside.pop(name) for name in group.files})
            for name, values in converted.items():
                self._own[name].copy_(values)


def _is_stored_as(own: torch.Tensor, spec: TensorSpec) -> bool:
    """Whether a tensor of the model has in memory the very bytes that a file would have."""
    alike = own.dtype == DTYPES[spec.dtype] and tuple(own.shape) == tuple(spec.shape)
    return alike and own.device.type == "cpu" and own.is_contiguous()


class _Memory:
    """Takes a result into tensors, as a writer takes it into files."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[NDArray[np.uint8], int]] = {}

    def hold(self, spec: TensorSpec, tensor: torch.Tensor) -> None:
        """Have a tensor written to."""
        flat: Any = tensor.detach().view(-1).view(torch.uint8).numpy()
        self._places[spec.name] = (flat, ITEM_SIZES[spec.dtype])

    def write(self, name: str, start: int, stored: NDArray[np.generic]) -> None:
        """As of a `Sink`."""
        flat, size = self._places[name]
        values = stored.view(np.uint8)
        flat[start * size : start * size + values.size] = values
