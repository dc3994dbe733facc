"""Kind `regmean`: each linear layer by least squares on its inputs in the fine-tuned models (arXiv 2212.09849).

    W  =  W₀ + (Σ_j a_j (W_j − W₀) G_j) (Σ_j a_j G_j + λ D)⁻¹          W₀ = Θ + Σ_j a_j ΔΘ_j / Σ_j a_j
    D  =  the diagonal of Σ_j a_j G_j

which is Eq. 2 of the paper with a ridge towards W₀ in place of its smaller off-diagonals. A vector that leaves a layer
alone has no say in it, and what one vector alone changes is as that one has it. Sums are float64 and in one order:
threads reach no bit.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.gram.stored import Grams
from dem_build.actions.match.frames import Frame
from dem_build.actions.match.normal import BLOCK, factor_of
from dem_build.actions.match.opened import open_sums
from dem_build.actions.match.stream import OneThreadEach
from dem_build.actions.match.sums import ModelSums, Vectors, Written
from dem_build.actions.model_parts import write_parts
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError
from dem_build.model.environment import device, memory_told, peak_memory, reset_peak_memory
from dem_build.step import StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.actions.match.normal import Factor, ForEach
    from dem_build.digest import JSON
    from dem_build.step import Context, Group, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Compose a model.

    Args:
        inputs: Weights, config, tokenizer and generation_config of `base/`; a group for each vector, with its `delta`,
            its `gram` and the parameter `importance`.
        params: `dtype` of the model and `ridge`, λ.
        context: Where and how.

    Raises:
        CheckpointError: A vector or Gram matrices that do not fit, or values that are not finite.
    """
    started = time.monotonic()
    context.resident.clear()  # what another action left would take the room of this one
    reset_peak_memory(device())
    # In an order that no name reaches.
    groups = sorted(
        inputs.groups, key=lambda g: (g.digests["delta"], g.digests["gram"], g.params["importance"])
    )
    with memory_told(CheckpointError, "while composing", "end what else takes memory"):
        fitted = _compose(inputs, groups, params, context)
    write_parts(inputs, params["dtype"], context)
    return {
        "terms": [{"vector": g.digests["delta"], "importance": g.params["importance"]} for g in groups],
        "fitted": fitted,
        "peak_memory": peak_memory(device()),
        "seconds": round(time.monotonic() - started, 3),
        "threads": context.threads,
    }


def _compose(inputs: Inputs, groups: Sequence[Group], params: Mapping[str, Any], context: Context) -> int:
    """Write the weights; return how many of them are fitted."""
    importances = [float(group.params["importance"]) for group in groups]
    files = [StoredFile(group.paths["delta"], group.digests["delta"]) for group in groups]
    model, sums = open_sums(inputs, Vectors(files, importances, 1.0), params["dtype"], context)
    digest = inputs.digests["base/weights"]
    with ExitStack() as stack:
        grams = [
            Grams(g.paths["gram"], {"base": digest, "delta": g.digests["delta"]}, g.name, stack)
            for g in groups
        ]
        frame = Frame(model, device())
        for_each = stack.enter_context(OneThreadEach(context.threads))
        layers = _Layers(frame, sums, grams, params["ridge"], for_each)
        writer = stack.enter_context(weights_writer(context.out / "weights", sums.specs))
        written = Written(writer, sums)
        tell, fitted = context.teller(len(frame.linear), "linear layers"), 0
        for done, name in enumerate(frame.linear):
            tell(done)
            made = layers.fit(name)
            if made is not None:
                written.set(f"{name}.weight", made)
                fitted += 1
            sums.release()
        written.rest(lambda _: context.check_stop())
        tell(len(frame.linear))
    context.hashed |= writer.digests  # known since the last byte: the files need not be read again
    return fitted


class _Layers:
    """Fits linear layers, one after another; those that are given the same share a factor."""

    def __init__(
        self,
        frame: Frame,
        sums: ModelSums,
        grams: Sequence[Grams],
        ridge: float,
        for_each: ForEach,
    ) -> None:
        self._frame, self._sums, self._grams = frame, sums, grams
        self._ridge, self._for_each, self._on = ridge, for_each, device()
        self._last: tuple[list[tuple[int, str]], Factor] | None = None

    def fit(self, name: str) -> torch.Tensor | None:
        """A linear module's weight in its published format; None where it is the mean."""
        weight = f"{name}.weight"
        [file, *others] = self._sums.layout.of_own[weight].files
        changers = self._sums.changers(file)
        # A module that a model has and no row passes (such as keys that it takes from another layer) has no matrix.
        of = [(j, self._grams[j].of[file]) for j in changers if file in self._grams[j].of]
        if len(of) < max(len(changers), 2) or others:
            return None
        factor = self._factor(of)
        mean = self._sums.own(weight)
        correction = factor.solve(self._targets(weight, mean, of), self._for_each)
        return (mean.to(self._on).double() + self._frame.turned(name, correction)).to(mean.dtype)

    def _gram(self, vector: int, gram: str) -> torch.Tensor:
        """a_j G_j, float64 [width, width]."""
        return (
            torch.from_numpy(self._grams[vector].read(gram)).to(self._on)
            * self._sums.vectors.importances[vector]
        )

    def _factor(self, of: list[tuple[int, str]]) -> Factor:
        if self._last is None or self._last[0] != of:
            self._last = None  # before the next: at large widths it is the largest thing there is
            (vector, gram), *others = of
            total = self._gram(vector, gram)
            for vector, gram in others:
                total += self._gram(vector, gram)
            self._last = (of, factor_of(total, self._ridge, self._for_each))
        return self._last[1]

    def _targets(self, weight: str, mean: torch.Tensor, of: list[tuple[int, str]]) -> torch.Tensor:
        """Σ a_j G_j (W_j − W₀)ᵀ, float64 [width, outputs]."""
        name = weight.removesuffix(".weight")
        total = torch.zeros(
            (self._frame.width(name), self._frame.outputs(name)), dtype=torch.float64, device=self._on
        )
        for vector, gram in of:
            moved = self._sums.own(weight, {vector: 1.0}).to(self._on).double() - mean.to(self._on).double()
            moved, matrix = (
                self._frame.turned(name, moved),
                self._gram(vector, gram),
            )  # turned twice is as it was

            def block(start: int, matrix: torch.Tensor = matrix, moved: torch.Tensor = moved) -> None:
                part = slice(start, start + BLOCK)
                total[part] += matrix[part] @ moved

            self._for_each(block, range(0, len(total), BLOCK))
        return total
