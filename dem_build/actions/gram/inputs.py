"""What each linear module of a model is given on some rows, as Gram matrices, from the first layer to the last.

As in matching, each row passes alone through the model's own code and halts before each linear module, so that one
layer has weights at a time, and no result depends on which rows go together, or on threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.frames import Frame, refused
from dem_build.actions.match.matching import STEP
from dem_build.actions.match.normal import CHUNK, gram_of
from dem_build.actions.match.passes import HaltedPass
from dem_build.actions.match.rows import token_weights
from dem_build.model.environment import device

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.actions.match.normal import ForEach
    from dem_build.actions.match.sums import ModelSums

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


@torch.no_grad()
def layer_grams(
    model: PreTrainedModel,
    sums: ModelSums,
    rows: Sequence[TokenRow],
    dtype: torch.dtype,
    for_each: ForEach,
) -> Generator[LayerGrams]:
    """Yield the Gram matrices of the layers, one after another. Closed before its end, it ends its passes.

    Args:
        model: Without weights.
        sums: Of the base and one vector.
        rows: Input ids and labels, [tokens] each.
        dtype: Of linear modules and their inputs; the residual stream is float32.
        for_each: As `each_alone` gives it.

    Raises:
        CheckpointError: The model has no decoder layers, or other weights in them than those of linear modules.
    """
    passes = _Passes(Frame(model, device()), sums, rows, dtype, for_each)
    try:
        yield from passes.layers()
    finally:
        passes.end()


@dataclass(frozen=True, eq=False)
class _Row:
    ids: torch.Tensor
    weights: torch.Tensor
    running: HaltedPass


class _Passes:
    """Rows that pass through one model together, halting before each linear module."""

    def __init__(
        self, frame: Frame, sums: ModelSums, rows: Sequence[TokenRow], dtype: torch.dtype, for_each: ForEach
    ) -> None:
        self._frame, self._sums, self._dtype, self._for_each = frame, sums, dtype, for_each
        self._on = device()
        self._rows = [
            self._row(ids, weights) for (ids, _), weights in zip(rows, token_weights(rows, 1.0), strict=True)
        ]

    def layers(self) -> Iterator[LayerGrams]:
        self._embed()
        layer: str | None = None
        last: list[torch.Tensor | None] = []
        found = LayerGrams({}, {})
        while (name := self._place()) is not None:
            if name not in self._frame.linear:  # the next layer
                if layer is not None:
                    yield found
                self._enter(name, layer)
                layer, found, last = name, LayerGrams({}, {}), []
                continue
            inputs = [row.running.input for row in self._rows]
            if not (last and all(a is b for a, b in zip(last, inputs, strict=True))):
                first = name
                width = self._frame.width(name)
                found.grams[first] = gram_of(self._pieces(name), width, self._on, self._for_each)
            found.of[name], last = first, inputs
            weight = f"{name}.weight"
            self._frame.set(weight, self._sums.own(weight, {0: 1.0}))
            self._for_each(partial(self._go_on, name), self._rows)
            self._frame.set(weight, None)
        if layer is not None:
            yield found

    def end(self) -> None:
        for row in self._rows:
            row.running.end()

    def _row(self, ids: NDArray[Any], weights: torch.Tensor) -> _Row:
        tokens = torch.from_numpy(ids.astype("int64"))[None].to(self._on)
        return _Row(tokens, weights.to(self._on)[:, None], HaltedPass(partial(self._forward, tokens)))

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._precision():
            states: torch.Tensor = self._frame.body(input_ids=ids, use_cache=False).last_hidden_state
            return states

    def _precision(self) -> torch.autocast:
        # Without its cache, which would keep a copy of each weight.
        enabled = self._dtype != torch.float32
        kind = self._dtype if enabled else torch.bfloat16
        return torch.autocast(self._on.type, dtype=kind, enabled=enabled, cache_enabled=False)

    def _embed(self) -> None:
        """Bring all passes before the first layer."""
        for name in self._frame.outside():
            self._frame.set(name, self._sums.own(name, {0: 1.0}))
        embedding = self._frame.embedding
        ids = torch.tensor(sorted({i for row in self._rows for i in row.ids[0].tolist()}))
        matrix = torch.empty(
            self._frame.shape(embedding)
        )  # of which only the rows of these tokens are touched
        matrix[ids] = self._sums.rows(embedding, ids, {0: 1.0}).float()
        self._frame.set(embedding, matrix)
        for row in self._rows:  # one by one: some models note the longest row that they met
            row.running.advance()
        self._frame.set(embedding, None)

    def _place(self) -> str | None:
        """Before which module all passes are; None once they are done."""
        names = {self._frame.name_of(row.running.module) for row in self._rows}
        if len(names) > 1:
            found = sorted(name or "its end" for name in names)
            raise refused(f"its rows take different ways, some to {found[0]}, some to {found[1]}")
        return names.pop()

    def _enter(self, layer: str, left: str | None) -> None:
        for name in self._frame.beside(left) if left else ():
            self._frame.set(name, None)
        for name in self._frame.beside(layer):
            self._frame.set(name, self._sums.own(name, {0: 1.0}))
        self._for_each(lambda row: row.running.advance(), self._rows)

    def _values(self, name: str, row: _Row) -> torch.Tensor:
        """A row's inputs of a linear module as it takes them, [tokens, width]."""
        value = row.running.input
        if value is None or value.numel() != row.ids.numel() * value.shape[-1]:
            raise refused(f"{name} is not given each token of a row once")
        return value.reshape(-1, value.shape[-1]).to(self._dtype)

    def _go_on(self, name: str, row: _Row) -> None:
        """Bring a row past a linear module."""
        values = self._values(name, row)
        padding = -len(values) % STEP
        with torch.no_grad(), self._precision():
            made = self._frame.apply(name, torch.nn.functional.pad(values, (0, 0, 0, padding)))
        row.running.advance(made[: len(values)])

    def _pieces(self, name: str) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
        """Each row's inputs of a module, and inputs times weights: pieces of at most CHUNK tokens."""
        for row in self._rows:
            values = self._values(name, row).float()
            both = (values, values * row.weights)
            yield list(zip(*(torch.split(found, CHUNK) for found in both), strict=True))
