"""Output matching: each linear module of a model by least squares on training rows, from the first layer to the last.

Each row passes twice through the model's own code, once as its dataset's single Θ + ΔΘ_j and once as the composed model
as it stands so far. All passes halt before the same linear module. There the module is solved (`normal`) from the
inputs of the composed passes and the outputs of the single ones, gets its weight, and all go on: nothing is computed
twice, and no more than one layer has weights.

A pass has one row, so there is no padding, and no result depends on which rows go together.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING

import torch

from dem_build.actions.match.frames import Frame, refused
from dem_build.actions.match.normal import Factor, Targets, dot, factorised
from dem_build.actions.match.rows import Piece, WeighedRow, pieces_of, weighed
from dem_build.actions.match.stream import OneThreadEach, Stream, place_of
from dem_build.errors import CheckpointError
from dem_build.model.environment import device, release_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from transformers import PreTrainedModel

    from dem_build.actions.match.rows import SampledRows
    from dem_build.actions.match.sums import ModelSums, Written
    from dem_build.actions.saliency.stored import Values


class Matching:
    """One matching. Use it in a `with`: it holds threads.

    Args:
        model: Without weights.
        sums: Singles and prior.
        samples: The rows of each vector, in the vectors' order.
        ridge: λ.
        threads: How many compute at a time on a CPU.

    Raises:
        CheckpointError: The model is of a kind that cannot be matched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sums: ModelSums,
        samples: Sequence[SampledRows],
        ridge: float,
        threads: int,
    ) -> None:
        self._sums, self._ridge = sums, ridge
        self._frame = Frame(model, device())
        self._for_each = OneThreadEach(threads)
        importances = sums.vectors.importances
        self._rows: dict[int, list[WeighedRow]] = {
            j: weighed(sample.rows, importances[j], j, device(), self._by_module(sample.saliency))
            for j, sample in enumerate(samples)
            if sample.rows
        }
        self._pieces = {j: pieces_of(found) for j, found in self._rows.items()}

        def stream(weights: dict[int, float] | None, of: list[WeighedRow]) -> Stream:
            return Stream(self._frame, sums, weights, of, self._for_each)

        self._singles = {j: stream({j: 1.0}, found) for j, found in self._rows.items()}
        self._composed = stream(None, [row for found in self._rows.values() for row in found])
        self._streams = [*self._singles.values(), self._composed]
        self._solved: set[str] = set()
        self._typical: dict[int, torch.Tensor] = {}
        self._last: tuple[list[int], list[weakref.ref[torch.Tensor]], Factor] | None = None

    def __enter__(self) -> Self:
        self._for_each.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self._streams:
            stream.end()
        self._for_each.__exit__(*error)

    @property
    def modules(self) -> int:
        """How many linear modules there are to solve."""
        return len(self._frame.linear)

    @property
    def width(self) -> int:
        """The most inputs of a linear module."""
        return max(self._frame.width(name) for name in self._frame.linear)

    def _by_module(self, saliency: Mapping[str, Values]) -> dict[str, Values]:
        file = {name: self._sums.layout.of_own[f"{name}.weight"].files[0] for name in self._frame.linear}
        return {name: saliency[weight] for name, weight in file.items() if weight in saliency}

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
        for stream in self._streams:  # one by one: the embeddings of one model are there at a time
            stream.begin()
        layer = None
        while (name := place_of(self._streams)) is not None:
            tell(len(self._solved))
            if name in self._frame.linear:
                self._match(name, written)
                continue
            # Of tensors of many sizes, in many threads, the C library keeps a third as much again.
            release_memory()
            self._sums.release()
            for stream in self._streams:
                stream.enter(name, layer)
            layer = name
        return {j: self._residual(j) for j in self._rows}

    def _match(self, name: str, written: Written) -> None:
        """Solve the module before which all passes are, and bring them before the next."""
        if name in self._solved:
            raise refused(f"a row passes {name} twice")
        weight, composed = f"{name}.weight", self._composed
        changers = self._sums.changers(self._sums.layout.of_own[weight].files[0])
        fitted = self._sums.own(weight).to(device())
        composed.set(weight, fitted)
        # One vector alone is as it is; beside it there is nothing to match.
        seen = [j for j in changers if j in self._singles] if len(changers) > 1 else []
        factor = self._factor(name, seen) if seen else None
        targets = self._targets(name, seen)
        if factor is not None:
            correction = self._correction(name, len(seen), factor, targets.sums)
            fitted = (fitted.double() + self._frame.turned(name, correction)).to(fitted.dtype)
            composed.set(weight, fitted)
        written.set(weight, fitted)
        for pieces in self._pieces.values():
            composed.go_on(name, pieces)
        composed.set(weight, None)
        self._solved.add(name)

    def _correction(self, name: str, vectors: int, factor: Factor, sums: torch.Tensor) -> torch.Tensor:
        """(W - W₀)ᵀ, float64 [width, outputs], of Nᵀ, which is overwritten."""
        if self._sums.vectors.prior is None:
            edit = self._frame.turned(name, self._sums.edit(f"{name}.weight").to(device()).double())
            square = factor.square(edit, self._for_each)
            along = dot(edit, sums, self._for_each)
            # A mean of vectors that do the same is right as it is; n that keep out of each other's way need n of it.
            longer = min(max(along / square, 0.0), vectors - 1.0) if square > 0 else 0.0
            sums.add_(edit, alpha=longer * factor.pull)
        return factor.solve(sums, self._for_each)

    def _factor(self, name: str, terms: list[int]) -> Factor:
        """The factor of the module's inputs; that of the last module where it had the same, and as heavy ones."""
        rows = [row for term in terms for row in self._rows[term]]
        inputs = [*(self._composed.given(row) for row in rows), *(row.weights_at(name) for row in rows)]
        if self._last is not None:
            of, held, factor = self._last
            if of == terms and all(a() is b for a, b in zip(held, inputs, strict=True)):
                return factor
        self._last = None  # before the next: at large widths it is the largest thing there is
        width = self._frame.width(name)
        self._typical = {term: self._composed.typical(name, self._pieces[term]) for term in terms}
        pieces = (piece for term in terms for piece in self._pieces[term])
        groups = self._composed.several(pieces)
        weighted = (self._for_each(partial(self._weighted, name), group) for group in groups)
        made = factorised(weighted, width, self._ridge, device(), self._for_each)
        if made is None:
            raise CheckpointError(
                f"the inputs of {name} are not finite",
                hint='a vector is damaged or the format too narrow: try dtype = "bfloat16" in [compose]',
            )
        self._last = terms, [weakref.ref(value) for value in inputs if value is not None], made
        return made

    def _weighted(self, name: str, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
        return self._composed.weighted(name, piece, self._typical[piece.term])

    def _targets(self, name: str, terms: list[int]) -> Targets:
        """Bring the single passes past the module, and sum what they say of it, of the vectors that have a say."""
        weight, composed = f"{name}.weight", self._composed
        outputs = self._frame.outputs(name) if terms else 0
        targets = Targets(self._frame.width(name), outputs, device())

        def residual(of: tuple[Piece, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            piece, made = of
            return self._weighted(name, piece)[1], made.float() - composed.apply(name, piece).float()

        def add(pieces: Sequence[Piece], made: Sequence[torch.Tensor]) -> None:
            targets.add(self._for_each(residual, zip(pieces, made, strict=True)), self._for_each)

        for term, stream in self._singles.items():
            stream.set(weight, self._sums.own(weight, {term: 1.0}))
            stream.go_on(name, self._pieces[term], add if term in terms else None)
            stream.set(weight, None)
        return targets

    def _residual(self, term: int) -> float:
        sums = torch.zeros(2, dtype=torch.float64)
        for row in self._rows[term]:
            weights, aim = row.weights.double(), self._singles[term].result(row).double()
            off = self._composed.result(row).double() - aim
            sums += torch.stack([(weights * off**2).sum(), (weights * aim**2).sum()]).cpu()
        error, aimed = sums.tolist()
        return error / aimed if aimed else 0.0
