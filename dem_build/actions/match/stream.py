"""Rows on their way through one model, each in a pass of its own, all of them before the same module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.frames import refused
from dem_build.actions.match.passes import HaltedPass
from dem_build.model.environment import device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from dem_build.actions.match.frames import Frame
    from dem_build.actions.match.rows import Piece, WeighedRow
    from dem_build.actions.match.sums import ModelSums

    Use = Callable[[Sequence[Piece], Sequence[torch.Tensor]], None]

STEP = 64
"""Tokens of a product are a multiple of it: libraries keep what they made for each shape that they met."""


class OneThreadEach:
    """Calls a function with each of some arguments, each call on one thread: on a CPU as many at a time as `threads`.

    Use it in a `with`. A sum that a library shares out among threads is another one for each number of them.
    """

    def __init__(self, threads: int) -> None:
        self.workers = 1 if device().type == "cuda" else threads

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="one-thread-each")
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)

    def __call__(self, function: Callable[[Any], Any], of: Iterable[Any]) -> list[Any]:
        """What the function makes of each, in their order."""
        return list(self._pool.map(function, of))


class Stream:
    """Some rows in one model. Linear modules and their inputs are of its format, and the residual stream is float32.

    Args:
        frame: The model without weights; other streams may pass through it, too, by turns.
        sums: What its weights are made of.
        weights: Of each vector in the model; None for the prior.
        rows: The rows.
        for_each: Computes.
    """

    def __init__(
        self,
        frame: Frame,
        sums: ModelSums,
        weights: Mapping[int, float] | None,
        rows: Iterable[WeighedRow],
        for_each: OneThreadEach,
    ) -> None:
        self.frame = frame
        self._own: dict[str, torch.Tensor] = {}
        self._sums, self._weights, self._for_each = sums, weights, for_each
        self._passes = {row: HaltedPass(partial(self._forward, row.ids)) for row in rows}

    def begin(self) -> None:
        """Bring all rows before the first layer. The embeddings are there in the meantime."""
        self._give(self.frame.outside())
        name = self.frame.embedding
        ids = torch.tensor(sorted({i for row in self._passes for i in row.ids[0].tolist()}))
        matrix = torch.empty(self.frame.shape(name))  # of which only the rows of these tokens are touched
        matrix[ids] = self._sums.rows(name, ids, self._weights).float()
        self.set(name, matrix)
        self._take_turn()
        for passed in self._passes.values():  # one by one: some models note the longest row that they met
            passed.advance()
        self.set(name, None)

    def places(self) -> set[str | None]:
        """Before which modules rows are; None of those that are done."""
        return {self.frame.name_of(passed.module) for passed in self._passes.values()}

    def enter(self, layer: str, left: str | None) -> None:
        """Bring all rows into a layer, which gets all but its linear weights; the last one keeps none."""
        for name in self.frame.beside(left) if left else ():
            self.set(name, None)
        self._give(self.frame.beside(layer))
        self._take_turn()
        self._for_each(HaltedPass.advance, self._passes.values())

    def given(self, row: WeighedRow) -> torch.Tensor | None:
        """What a row brings to the module that it is before: the tensor itself."""
        return self._passes[row].input

    def inputs(self, name: str, piece: Piece) -> torch.Tensor:
        """What a linear module is given of a piece, as it takes it: [tokens, width]."""
        found = []
        for row, part in piece.parts:
            value = self.given(row)
            if value is None or value.numel() != row.tokens * value.shape[-1]:
                raise refused(f"{name} is not given each token of a row once")
            found.append(value.reshape(-1, value.shape[-1])[part])
        return torch.cat(found).to(self._sums.dtype)

    def typical(self, name: str, pieces: Iterable[Piece]) -> torch.Tensor:
        """The median over some tokens of what a linear module is given, as a mean square; a scalar."""
        sizes = [self._for_each(partial(self._mean_squares, name), group) for group in self.several(pieces)]
        return torch.cat([size for group in sizes for size in group]).median()

    def weighted(self, name: str, piece: Piece, typical: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a linear module is given of a piece, and the same times the tokens' weights: float32 [tokens, width].

        A token's weight is a_j s_t · 2 m / (q + m), where q is the mean square of what the module is given of it, and m
        that of a typical token. The first token of a row may be given a thousand times as much as others, and would be
        all that is fitted.

        Args:
            name: The module.
            piece: Of rows that are before it.
            typical: m.
        """
        values = self.inputs(name, piece).float()
        share = 2 * typical / (values.square().mean(dim=1, keepdim=True) + typical)
        return values, values * (piece.weights_at(name) * share.nan_to_num())

    def _mean_squares(self, name: str, piece: Piece) -> torch.Tensor:
        return self.inputs(name, piece).float().square().mean(dim=1)

    def apply(self, name: str, piece: Piece) -> torch.Tensor:
        """What a linear module makes of a piece, [tokens, outputs]."""
        values = self.inputs(name, piece)
        tokens, padding = len(values), -len(values) % STEP
        with torch.no_grad(), self._precision():
            values = torch.nn.functional.pad(values, (0, 0, 0, padding))
            made = self.frame.apply(name, values, self._own[f"{name}.weight"], self._own.get(f"{name}.bias"))
        return made[:tokens]

    def several(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """As many at a time as can be computed at once; which these are reaches no bit."""
        left = iter(pieces)
        while group := list(islice(left, self._for_each.workers)):
            yield group

    def go_on(self, name: str, pieces: Sequence[Piece], use: Use | None = None) -> None:
        """Bring whole rows past a linear module that has its weight.

        Args:
            name: The module.
            pieces: All of these rows.
            use: Called with some pieces, and what the module made of each.
        """
        parts: list[torch.Tensor] = []
        self._take_turn()
        for group in self.several(pieces):
            made = self._for_each(partial(self.apply, name), group)
            if use is not None:
                use(group, made)
            whole: list[tuple[HaltedPass, torch.Tensor]] = []
            for piece, outputs in zip(group, made, strict=True):
                sizes = [part.stop - part.start for _, part in piece.parts]
                for (row, part), values in zip(piece.parts, torch.split(outputs, sizes), strict=True):
                    parts.append(values)
                    if part.stop == row.tokens:
                        # A copy: a view would keep the whole piece.
                        whole.append((self._passes[row], torch.cat(parts)))
                        parts = []
            self._for_each(lambda each: each[0].advance(each[1]), whole)

    def result(self, row: WeighedRow) -> torch.Tensor:
        """The last states of a row that is done, [tokens, width]."""
        states = self._passes[row].result
        assert states is not None
        return states[0]

    def end(self) -> None:
        """End all passes where they are."""
        for passed in self._passes.values():
            passed.end()

    def set(self, name: str, tensor: torch.Tensor | None) -> None:
        """Give this model one of its tensors; None takes it away."""
        if tensor is None:
            self._own.pop(name)
            self.frame.set(name, None)
        else:
            self._own[name] = self.frame.taken(name, tensor)

    def _give(self, names: Iterable[str]) -> None:
        for name in names:
            self.set(name, self._sums.own(name, self._weights))

    def _take_turn(self) -> None:
        """What the frame has is this model's from now on; weights of linear modules are given to `apply` alone."""
        for name, tensor in self._own.items():
            if name.removesuffix(".weight") not in self.frame.linear:
                self.frame.set(name, tensor)

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._precision():
            states: torch.Tensor = self.frame.body(input_ids=ids, use_cache=False).last_hidden_state
            return states

    def _precision(self) -> torch.autocast:
        # Without its cache, which would keep a copy of each weight.
        enabled = self._sums.dtype != torch.float32
        kind = self._sums.dtype if enabled else torch.bfloat16
        return torch.autocast(device().type, dtype=kind, enabled=enabled, cache_enabled=False)


def place_of(streams: Iterable[Stream]) -> str | None:
    """Before which module all rows of some streams are; None once they are done."""
    names = set[str | None]().union(*(stream.places() for stream in streams))
    if len(names) > 1:
        found = sorted(name or "its end" for name in names)
        raise refused(f"its rows take different ways, some to {found[0]}, some to {found[1]}")
    return names.pop()
