"""What each linear module of a model is given on some rows, as Gram matrices, from the first layer to the last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from dem_build.actions.match.frames import Frame
from dem_build.actions.match.normal import gram_of
from dem_build.actions.match.rows import pieces_of, weighed
from dem_build.actions.match.stream import Stream, place_of
from dem_build.model.environment import device

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from transformers import PreTrainedModel

    from dem_build.actions.match.rows import Piece, TokenRow, WeighedRow
    from dem_build.actions.match.stream import OneThreadEach
    from dem_build.actions.match.sums import ModelSums

VECTOR = {0: 1.0}
"""The model's weights: base and the one vector."""


@dataclass(frozen=True)
class LayerGrams:
    """The Gram matrices of a layer.

    Attributes:
        of: Name of a linear module → name of the one that is first given the same.
        grams: Of each of those, Σ s_t x_t x_tᵀ: float64 [width, width], in the lower triangle.
    """

    of: dict[str, str]
    grams: dict[str, torch.Tensor]


@torch.no_grad()
def layer_grams(
    model: PreTrainedModel,
    sums: ModelSums,
    rows: Sequence[TokenRow],
    for_each: OneThreadEach,
) -> Generator[LayerGrams]:
    """Yield the Gram matrices of the layers, one after another. Closed before its end, it ends its passes.

    Args:
        model: Without weights.
        sums: Of the base and one vector.
        rows: Input ids and labels, [tokens] each.
        for_each: Computes.

    Raises:
        CheckpointError: The model has no decoder layers, or other weights in them than those of linear modules.
    """
    found = weighed(rows, 1.0, 0, device())
    stream = Stream(Frame(model, device()), sums, VECTOR, found, for_each)
    try:
        yield from _layers(stream, sums, found, for_each)
    finally:
        stream.end()


def _layers(
    stream: Stream, sums: ModelSums, rows: Sequence[WeighedRow], for_each: OneThreadEach
) -> Iterator[LayerGrams]:
    frame, pieces = stream.frame, pieces_of(rows)
    stream.begin()
    layer: str | None = None
    last: list[torch.Tensor | None] = []
    found = LayerGrams({}, {})
    while (name := place_of([stream])) is not None:
        if name not in frame.linear:  # the next layer
            if layer is not None:
                yield found
            sums.release()
            stream.enter(name, layer)
            layer, found, last = name, LayerGrams({}, {}), []
            continue
        given = [stream.given(row) for row in rows]
        if not (last and all(a is b for a, b in zip(last, given, strict=True))):
            first = name
            batches = _batches(stream, name, pieces, for_each)
            found.grams[first] = gram_of(batches, frame.width(name), device(), for_each)
        found.of[name], last = first, given
        weight = f"{name}.weight"
        stream.set(weight, sums.own(weight, VECTOR))
        stream.go_on(name, pieces)
        stream.set(weight, None)
    if layer is not None:
        yield found


def _batches(
    stream: Stream, name: str, pieces: Sequence[Piece], for_each: OneThreadEach
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    typical = stream.typical(name, pieces)
    for group in stream.several(pieces):
        yield for_each(partial(stream.weighted, name, typical=typical), group)
