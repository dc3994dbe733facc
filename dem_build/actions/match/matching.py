"""Output matching: each linear module of a model by least squares on training rows, from the first layer to the last.

Each row passes twice through the model's own code, once as its dataset's single Θ + ΔΘ_j and once as the composed model
as it stands so far. All passes halt before the same linear module. There the module is solved (`normal`) from the
inputs of the composed passes and the outputs of the single ones, gets its weight, and all go on: nothing is computed
twice, and no more than one layer has weights.

A pass has one row, so there is no padding, and no result depends on which rows go together.
"""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.frames import Frame, refused
from dem_build.actions.match.normal import Factor, Targets, factorised
from dem_build.actions.match.passes import HaltedPass
from dem_build.actions.match.rows import MatchedRow, Piece, pieces_of, token_weights
from dem_build.errors import CheckpointError
from dem_build.model.environment import release_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.actions.match.sums import ModelSums, Written

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

__all__ = ["Matching", "Settings"]

STEP = 64
"""Tokens of a product are a multiple of it: libraries keep what they made for each shape that they met."""


@dataclass(frozen=True)
class Settings:
    """How it is matched.

    Attributes:
        ridge: λ.
        dtype: Of linear modules and their inputs; the residual stream is float32.
        device: Where it is computed.
        threads: How many compute at a time on a CPU.
    """

    ridge: float
    dtype: torch.dtype
    device: torch.device
    threads: int


class Matching:
    """One matching. Use it in a `with`: it holds threads.

    Args:
        model: Without weights.
        sums: Singles and prior.
        rows: The rows of each vector, in the vectors' order.
        settings: How.

    Raises:
        CheckpointError: The model is of a kind that cannot be matched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sums: ModelSums,
        rows: Sequence[Sequence[TokenRow]],
        settings: Settings,
    ) -> None:
        self._sums, self._settings, self._device = sums, settings, settings.device
        device, importances = settings.device, sums.vectors.importances
        self._composed = Frame(model, device)
        self._singles = {j: Frame(model, device) for j, found in enumerate(rows) if found}
        self._rows = [
            self._row(j, ids, weights)
            for j in self._singles
            for (ids, _), weights in zip(rows[j], token_weights(rows[j], importances[j]), strict=True)
        ]
        self._pieces = {j: pieces_of(row for row in self._rows if row.term == j) for j in self._singles}
        self._workers = 1 if device.type == "cuda" else settings.threads
        self._solved: set[str] = set()
        self._last: tuple[list[int], list[weakref.ref[torch.Tensor]], Factor] | None = None

    def __enter__(self) -> Self:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a sum that a library shares out among threads is another one
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="match")
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for row in self._rows:
            row.single.end()
            row.composed.end()
        torch.set_num_threads(self._threads)

    @property
    def modules(self) -> int:
        """How many linear modules there are to solve."""
        return len(self._composed.linear)

    @property
    def width(self) -> int:
        """The most inputs of a linear module."""
        return max(self._composed.width(name) for name in self._composed.linear)

    @torch.no_grad()
    def run(self, written: Written, tell: Callable[[float], None]) -> dict[int, float]:
        """Match every linear module, and write it.

        Args:
            written: Takes the solved weights.
            tell: Called with the modules that are done; what it raises stops the work.

        Returns:
            Of each vector with rows, Σ s_t ‖h_composed - h_single‖² / Σ s_t ‖h_single‖² of the body's last states.
        """
        if not self._rows:
            return {}
        self._begin()
        layer = None
        while (name := self._place()) is not None:
            tell(len(self._solved))
            if name in self._composed.linear:
                self._match(name, written)
            else:
                self._enter(name, layer)
                layer = name
        return self._residuals()

    def _row(self, term: int, ids: NDArray[Any], weights: torch.Tensor) -> MatchedRow:
        tokens = torch.from_numpy(ids.astype("int64"))[None].to(self._device)
        passes = (
            HaltedPass(partial(self._forward, f, tokens)) for f in (self._singles[term], self._composed)
        )
        return MatchedRow(term, tokens, weights.to(self._device)[:, None], *passes)

    def _forward(self, frame: Frame, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._precision():
            states: torch.Tensor = frame.body(input_ids=ids, use_cache=False).last_hidden_state
            return states

    def _precision(self) -> torch.autocast:
        # Without its cache, which would keep a copy of each weight.
        enabled = self._settings.dtype != torch.float32
        kind = self._settings.dtype if enabled else torch.bfloat16
        return torch.autocast(self._device.type, dtype=kind, enabled=enabled, cache_enabled=False)

    def _for_each(self, function: Callable[[Any], Any], of: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(function, of))

    def _begin(self) -> None:
        """Bring all passes before the first layer: the embeddings of one model are there at a time."""
        for term, frame in [*self._singles.items(), (None, self._composed)]:
            weights = None if term is None else {term: 1.0}
            for name in frame.outside():
                frame.set(name, self._sums.own(name, weights))
            rows = [row for row in self._rows if term in (None, row.term)]
            ids = torch.tensor(sorted({i for row in rows for i in row.ids[0].tolist()}))
            matrix = torch.empty(
                frame.shape(frame.embedding)
            )  # of which only the rows of these tokens are touched
            matrix[ids] = self._sums.rows(frame.embedding, ids, weights).float()
            frame.set(frame.embedding, matrix)
            for row in rows:  # one by one: some models note the longest row that they met
                (row.composed if term is None else row.single).advance()
            frame.set(frame.embedding, None)

    def _place(self) -> str | None:
        """Before which module all passes are; None once they are done."""
        names = {self._singles[row.term].name_of(row.single.module) for row in self._rows}
        names |= {self._composed.name_of(row.composed.module) for row in self._rows}
        if len(names) > 1:
            found = sorted(name or "its end" for name in names)
            raise refused(f"its rows take different ways, some to {found[0]}, some to {found[1]}")
        [name] = names
        return name

    def _enter(self, layer: str, left: str | None) -> None:
        """Begin a layer: what is no linear weight is as in each single, and as in the prior."""
        release_memory()  # of tensors of many sizes, in many threads, the C library keeps a third as much again
        for term, frame in [*self._singles.items(), (None, self._composed)]:
            for name in frame.beside(left) if left else ():
                frame.set(name, None)
            for name in frame.beside(layer):
                frame.set(name, self._sums.own(name, None if term is None else {term: 1.0}))
        self._for_each(lambda row: row.single.advance(), self._rows)
        self._for_each(lambda row: row.composed.advance(), self._rows)

    def _match(self, name: str, written: Written) -> None:
        """Solve the module before which all passes are, and bring them before the next."""
        if name in self._solved:
            raise refused(f"a row passes {name} twice")
        weight = f"{name}.weight"
        changers = self._sums.changers(self._sums.layout.of_own[weight].files[0])
        fitted = self._sums.own(weight).to(self._device)
        self._composed.set(weight, fitted)
        # One vector alone is as it is; beside it there is nothing to match.
        seen = [j for j in changers if j in self._singles] if len(changers) > 1 else []
        factor = self._factor(name, seen) if seen else None
        targets = self._targets(name, seen)
        if factor is not None:
            correction = factor.solve(targets.sums, self._for_each)
            fitted = (fitted.double() + self._composed.turned(name, correction)).to(fitted.dtype)
            self._composed.set(weight, fitted)
        written.set(weight, fitted)
        for pieces in self._pieces.values():
            self._go_on(name, self._composed, pieces, _composed)
        self._composed.set(weight, None)
        self._solved.add(name)

    def _factor(self, name: str, terms: list[int]) -> Factor:
        """The factor of the module's inputs; that of the last module where it had the same."""
        inputs = [row.composed.input for row in self._rows if row.term in terms]
        if self._last is not None:
            of, held, factor = self._last
            if of == terms and all(a() is b for a, b in zip(held, inputs, strict=True)):
                return factor
        self._last = None  # before the next: at large widths it is the largest thing there is
        width = self._composed.width(name)
        pieces = (piece for term in terms for piece in self._pieces[term])
        weighted = (self._for_each(partial(self._weighted, name), group) for group in self._several(pieces))
        made = factorised(weighted, width, self._settings.ridge, self._device, self._for_each)
        if made is None:
            raise CheckpointError(
                f"the inputs of {name} are not finite",
                hint='a vector is damaged or the format too narrow: try dtype = "bfloat16" in [compose]',
            )
        self._last = terms, [weakref.ref(value) for value in inputs if value is not None], made
        return made

    def _targets(self, name: str, terms: list[int]) -> Targets:
        """Bring the single passes past the module, and sum what they say of it, of the vectors that have a say."""
        weight = f"{name}.weight"
        targets = Targets(
            self._composed.width(name), self._composed.outputs(name) if terms else 0, self._device
        )

        def residual(of: tuple[Piece, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            piece, made = of
            prior = self._apply(self._composed, name, self._joined(name, piece, _composed))
            return self._weighted(name, piece)[1], made.float() - prior.float()

        def add(pieces: Sequence[Piece], made: Sequence[torch.Tensor]) -> None:
            targets.add(self._for_each(residual, zip(pieces, made, strict=True)), self._for_each)

        for term, frame in self._singles.items():
            frame.set(weight, self._sums.own(weight, {term: 1.0}))
            self._go_on(name, frame, self._pieces[term], _single, add if term in terms else None)
            frame.set(weight, None)
        return targets

    def _go_on(
        self,
        name: str,
        frame: Frame,
        pieces: Sequence[Piece],
        of: Callable[[MatchedRow], HaltedPass],
        use: Callable[[Sequence[Piece], Sequence[torch.Tensor]], None] | None = None,
    ) -> None:
        """Bring passes of one dataset past a linear module.

        Args:
            name: The module.
            frame: Of which it is.
            pieces: All of the dataset.
            of: Which pass of a row is meant.
            use: Called with some pieces, and what the module made of each.
        """
        parts: list[torch.Tensor] = []
        for group in self._several(pieces):
            made = self._for_each(
                lambda piece: self._apply(frame, name, self._joined(name, piece, of)), group
            )
            if use is not None:
                use(group, made)
            whole: list[tuple[MatchedRow, torch.Tensor]] = []
            for piece, outputs in zip(group, made, strict=True):
                sizes = [part.stop - part.start for _, part in piece.parts]
                for (row, part), values in zip(piece.parts, torch.split(outputs, sizes), strict=True):
                    parts.append(values)
                    if part.stop == row.tokens:
                        # A copy: a view would keep the whole piece.
                        whole.append((row, torch.cat(parts)))
                        parts = []
            self._for_each(lambda each: of(each[0]).advance(each[1]), whole)

    def _several(self, pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
        """As many at a time as can be computed at once; which these are reaches no bit."""
        left = iter(pieces)
        while group := list(islice(left, self._workers)):
            yield group

    def _joined(self, name: str, piece: Piece, of: Callable[[MatchedRow], HaltedPass]) -> torch.Tensor:
        """A linear module's inputs as it takes them, [tokens, width]."""
        found = []
        for row, part in piece.parts:
            value = of(row).input
            if value is None or value.numel() != row.tokens * value.shape[-1]:
                raise refused(f"{name} is not given each token of a row once")
            found.append(value.reshape(-1, value.shape[-1])[part])
        return torch.cat(found).to(self._settings.dtype)

    def _weighted(self, name: str, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs in the composed model, and the same times a_j s_t, float32 [tokens, width]."""
        values = self._joined(name, piece, _composed).float()
        return values, values * piece.weights

    def _apply(self, frame: Frame, name: str, values: torch.Tensor) -> torch.Tensor:
        """What a module makes of some inputs, [tokens, outputs]."""
        padding = -len(values) % STEP
        with torch.no_grad(), self._precision():
            made = frame.apply(name, torch.nn.functional.pad(values, (0, 0, 0, padding)))
        return made[: len(values)]

    def _residuals(self) -> dict[int, float]:
        sums = {term: torch.zeros(2, dtype=torch.float64) for term in self._singles}
        for row in self._rows:
            single, composed = row.single.result, row.composed.result
            assert single is not None
            assert composed is not None
            weights = row.weights.double()
            aim = single[0].double()
            parts = [(weights * (composed[0].double() - aim) ** 2).sum(), (weights * aim**2).sum()]
            sums[row.term] += torch.stack(parts).cpu()
        return {term: float(error / aim) if aim else 0.0 for term, (error, aim) in sums.items()}


def _single(row: MatchedRow) -> HaltedPass:
    return row.single


def _composed(row: MatchedRow) -> HaltedPass:
    return row.composed
