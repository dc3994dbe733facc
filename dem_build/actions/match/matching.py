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
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.frames import Frame, refused
from dem_build.actions.match.normal import CHUNK, Factor, Targets, factorised
from dem_build.actions.match.passes import Pass
from dem_build.data.tokenise import MASKED
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.actions.match.sums import Sums, Written

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

__all__ = ["Matching", "Settings", "token_weights"]


@dataclass
class _Row:
    """One row of a dataset.

    Attributes:
        term: Which vector is its dataset's.
        ids: [1, tokens].
        weights: a_j s_t, float32 [tokens, 1].
        single: Its pass through the single model.
        composed: Its pass through the composed one.
    """

    term: int
    ids: torch.Tensor
    weights: torch.Tensor
    single: Pass
    composed: Pass


def token_weights(rows: Sequence[TokenRow], importance: float) -> list[torch.Tensor]:
    """a_j s_t of each token: half of a dataset's weight on those whose next token counts, half on the others.

    Args:
        rows: Input ids and labels of each row of one dataset.
        importance: a_j, what all of them sum to.

    Returns:
        float32 [tokens] a row.
    """
    counting = [torch.zeros(len(ids), dtype=torch.bool) for ids, _ in rows]
    for found, (_, labels) in zip(counting, rows, strict=True):
        found[:-1] = torch.from_numpy(labels[1:] != MASKED)
    count = sum(int(found.sum()) for found in counting)
    others = sum(len(found) for found in counting) - count
    share = 0.5 if count and others else 1.0
    of = [importance * share / max(others, 1), importance * share / max(count, 1)]
    table = torch.tensor(of, dtype=torch.float64).float()
    return [table[found.long()] for found in counting]


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
        sums: Sums,
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
        self._workers = 1 if device.type == "cuda" else settings.threads
        self._solved: set[str] = set()
        self._last: tuple[tuple[int, ...], list[weakref.ref[torch.Tensor]], Factor] | None = None

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

    def _row(self, term: int, ids: NDArray[Any], weights: torch.Tensor) -> _Row:
        tokens = torch.from_numpy(ids.astype("int64"))[None].to(self._device)
        passes = (Pass(partial(self._forward, f, tokens)) for f in (self._singles[term], self._composed))
        return _Row(term, tokens, weights.to(self._device)[:, None], *passes)

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
        seen = [row for row in self._rows if row.term in changers] if len(changers) > 1 else []
        factor = self._factor(name, changers, seen) if seen else None
        targets = self._targets(name, {row.term for row in seen})
        if factor is not None:
            correction = factor.solve(targets.sums, self._for_each)
            fitted = (fitted.double() + self._composed.turned(name, correction)).to(fitted.dtype)
            self._composed.set(weight, fitted)
        written.set(weight, fitted)
        self._for_each(self._advance_composed, self._rows)
        self._composed.set(weight, None)
        self._solved.add(name)

    def _factor(self, name: str, changers: tuple[int, ...], rows: Sequence[_Row]) -> Factor:
        """The factor of the module's inputs; that of the last module where it had the same."""
        inputs = [row.composed.input for row in rows]
        if self._last is not None:
            of, held, factor = self._last
            if of == changers and all(a() is b for a, b in zip(held, inputs, strict=True)):
                return factor
        self._last = None  # before the next: at large widths it is the largest thing there is
        width = self._composed.width(name)
        batches = (_cut((self._values(name, row), row.weights) for row in batch) for batch in _batches(rows))
        weighted = ([(values, values * s) for values, s in batch] for batch in batches)
        made = factorised(weighted, width, self._settings.ridge, self._device, self._for_each)
        if made is None:
            raise CheckpointError(
                f"the inputs of {name} are not finite",
                hint='a vector is damaged or the format too narrow: try dtype = "bfloat16" in [compose]',
            )
        self._last = changers, [weakref.ref(value) for value in inputs if value is not None], made
        return made

    def _targets(self, name: str, terms: set[int]) -> Targets:
        """Bring the single passes past the module, and sum what they say of it, of the vectors that have a say."""
        width, weight = self._composed.width(name), f"{name}.weight"
        outputs = self._composed.outputs(name) if terms else 0
        targets = Targets(width, outputs, self._device)
        for term, frame in self._singles.items():
            frame.set(weight, self._sums.own(weight, {term: 1.0}))
            for batch in _batches([row for row in self._rows if row.term == term]):
                residuals = self._for_each(partial(self._advance_single, name, term in terms), batch)
                if term in terms:
                    values = ((self._values(name, row) * row.weights) for row in batch)
                    targets.add(_cut(zip(values, residuals, strict=True)), self._for_each)
            frame.set(weight, None)
        return targets

    def _values(self, name: str, row: _Row) -> torch.Tensor:
        """The module's inputs in the composed model, float32 [tokens, width]."""
        value = row.composed.input
        if value is None or value.numel() != row.ids.numel() * value.shape[-1]:
            raise refused(f"{name} is not given each token of a row once")
        return value.reshape(-1, value.shape[-1]).to(self._settings.dtype).float()

    def _advance_single(self, name: str, wanted: bool, row: _Row) -> torch.Tensor | None:
        """Bring a single pass past the module; return y - W₀ z where it is wanted, float32 [tokens, outputs]."""
        row.single.advance()
        made, row.single.output = row.single.output, None
        if not wanted:
            return None
        assert made is not None
        assert row.composed.input is not None
        with torch.no_grad(), self._precision():
            prior = self._composed.apply(name, row.composed.input)
        return (made.float() - prior.float()).reshape(-1, made.shape[-1])

    def _advance_composed(self, row: _Row) -> None:
        row.composed.advance()
        row.composed.output = None

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


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows one after another, of CHUNK tokens or a few more together: by the rows alone."""
    batch: list[_Row] = []
    for row in rows:
        if batch and (row.term != batch[0].term or sum(r.ids.numel() for r in batch) >= CHUNK):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _cut(of: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Join the rows of a batch, and cut them into pieces of at most CHUNK tokens."""
    joined = (torch.cat(column) for column in zip(*of, strict=True))
    return list(zip(*(torch.split(column, CHUNK) for column in joined), strict=True))
