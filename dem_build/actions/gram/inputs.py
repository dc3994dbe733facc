"""What each linear module of a model is given on some rows, as Gram matrices, from the first layer to the last.

As in matching, each row passes alone through the model's own code and halts before each linear module, so that one
layer has weights at a time, and no result depends on which rows go together, or on threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.frames import Frame, refused
from dem_build.actions.match.matching import token_weights
from dem_build.actions.match.normal import CHUNK, gram_of
from dem_build.actions.match.passes import Pass
from dem_build.model.environment import device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.actions.match.normal import ForEach
    from dem_build.actions.match.sums import Sums

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

__all__ = ["LayerGrams", "each_alone", "layer_grams"]


@dataclass(frozen=True)
class LayerGrams:
    """The Gram matrices of a layer.

    Attributes:
        of: Name of a linear module → name of the one that is first given the same.
        grams: Of each of those, Σ s_t x_t x_tᵀ: float64 [width, width], in the lower triangle.
    """

    of: dict[str, str]
    grams: dict[str, torch.Tensor]


@contextmanager
def each_alone(threads: int) -> Iterator[ForEach]:
    """A way to call a function with each of some arguments, several at a time, each call on one thread.

    A sum that a library shares out among threads is another one for each number of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        workers = 1 if device().type == "cuda" else threads
        with ThreadPoolExecutor(workers, thread_name_prefix="each-alone") as pool:
            yield lambda function, of: list(pool.map(function, of))
    finally:
        torch.set_num_threads(before)


@dataclass
class _Row:
    ids: torch.Tensor
    weights: torch.Tensor
    running: Pass


@torch.no_grad()
def layer_grams(
    model: PreTrainedModel,
    sums: Sums,
    rows: Sequence[TokenRow],
    dtype: torch.dtype,
    for_each: ForEach,
) -> Iterator[LayerGrams]:
    """Yield the Gram matrices of the layers, one after another.

    Args:
        model: Without weights.
        sums: Of the base and one vector.
        rows: Input ids and labels, [tokens] each.
        dtype: Of linear modules and their inputs; the residual stream is float32.
        for_each: As `each_alone` gives it.

    Raises:
        CheckpointError: The model has no decoder layers, or other weights in them than those of linear modules.
    """
    on = device()
    frame = Frame(model, on)
    forward = _forward(frame, dtype, on)
    weights = token_weights(rows, 1.0)
    passes = [
        _Row(ids, weight.to(on)[:, None], Pass(lambda ids=ids: forward(ids)))  # type: ignore[misc]
        for (found, _), weight in zip(rows, weights, strict=True)
        for ids in [torch.from_numpy(found.astype("int64"))[None].to(on)]
    ]
    try:
        yield from _layers(frame, sums, passes, dtype, for_each)
    finally:
        for row in passes:
            row.running.end()


def _forward(frame: Frame, dtype: torch.dtype, on: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(ids: torch.Tensor) -> torch.Tensor:
        enabled = dtype != torch.float32
        kind = dtype if enabled else torch.bfloat16
        with torch.no_grad(), torch.autocast(on.type, dtype=kind, enabled=enabled, cache_enabled=False):
            states: torch.Tensor = frame.body(input_ids=ids, use_cache=False).last_hidden_state
            return states

    return forward


def _layers(
    frame: Frame, sums: Sums, rows: Sequence[_Row], dtype: torch.dtype, for_each: ForEach
) -> Iterator[LayerGrams]:
    _embed(frame, sums, rows)
    layer: str | None = None
    last: list[torch.Tensor | None] = []
    found = LayerGrams({}, {})
    while (name := _place(frame, rows)) is not None:
        if name not in frame.linear:  # the next layer
            if layer is not None:
                yield found
                for left in frame.beside(layer):
                    frame.set(left, None)
            for own in frame.beside(name):
                frame.set(own, sums.own(own, {0: 1.0}))
            layer, found, last = name, LayerGrams({}, {}), []
            for_each(lambda row: row.running.advance(), rows)
            continue
        inputs = [row.running.input for row in rows]
        if not (last and all(a is b for a, b in zip(last, inputs, strict=True))):
            first = name
            found.grams[first] = gram_of(
                _pieces(name, rows, dtype), frame.width(name), rows[0].ids.device, for_each
            )
        found.of[name], last = first, inputs
        frame.set(f"{name}.weight", sums.own(f"{name}.weight", {0: 1.0}))
        for_each(_advance, rows)
        frame.set(f"{name}.weight", None)
    if layer is not None:
        yield found


def _embed(frame: Frame, sums: Sums, rows: Sequence[_Row]) -> None:
    """Bring all passes before the first layer."""
    for name in frame.outside():
        frame.set(name, sums.own(name, {0: 1.0}))
    ids = torch.tensor(sorted({i for row in rows for i in row.ids[0].tolist()}))
    matrix = torch.empty(frame.shape(frame.embedding))  # of which only the rows of these tokens are touched
    matrix[ids] = sums.rows(frame.embedding, ids, {0: 1.0}).float()
    frame.set(frame.embedding, matrix)
    for row in rows:  # one by one: some models note the longest row that they met
        row.running.advance()
    frame.set(frame.embedding, None)


def _place(frame: Frame, rows: Sequence[_Row]) -> str | None:
    """Before which module all passes are; None once they are done."""
    names = {frame.name_of(row.running.module) for row in rows}
    if len(names) > 1:
        found = sorted(name or "its end" for name in names)
        raise refused(f"its rows take different ways, some to {found[0]}, some to {found[1]}")
    return names.pop()


def _advance(row: _Row) -> None:
    row.running.advance()
    row.running.output = None


def _pieces(
    name: str, rows: Sequence[_Row], dtype: torch.dtype
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Each row's inputs of a module, and inputs times weights: pieces of at most CHUNK tokens."""
    for row in rows:
        value = row.running.input
        if value is None or value.numel() != row.ids.numel() * value.shape[-1]:
            raise refused(f"{name} is not given each token of a row once")
        values = value.reshape(-1, value.shape[-1]).to(dtype).float()
        both = (values, values * row.weights)
        yield list(zip(*(torch.split(found, CHUNK) for found in both), strict=True))
