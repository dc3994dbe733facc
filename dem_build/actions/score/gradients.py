"""The gradient of some rows, and how the loss of others changes along a direction, row by row.

One gradient is held, that of the new rows, in float32. Those of all other rows meet it parameter by parameter, as the
backward pass makes them, and are gone before the next one is there: ⟨∇L_row, d⟩ is all that is kept of a row.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from dem_build.model.batches import by_length
from dem_build.model.context_length import longest_short
from dem_build.model.likelihood import row_nll

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.arrays import TokenRows

CHUNK = 1 << 18  # elements: what is at work stays in a core's cache


class Direction(Protocol):
    """Values of parameters by their names."""

    def get(self, name: str, /) -> torch.Tensor | None:
        """Those of one; None where it does not move."""
        ...


class Signs:
    """The signs of a direction, which take no memory beside it."""

    def __init__(self, of: Direction) -> None:
        self._of = of

    def get(self, name: str, /) -> torch.Tensor | None:
        """As of a direction."""
        values = self._of.get(name)
        return None if values is None else values.sign()


@dataclass(frozen=True)
class Measured:
    """What some rows lose at a model, and how that changes along directions.

    Attributes:
        nll: Summed loss of each part of the rows in nats, [parts].
        tokens: How many of its tokens count, [parts].
        slopes: Derivative of `nll` along each direction, [parts, directions].
    """

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    slopes: NDArray[np.float64]


def add_gradient(
    model: PreTrainedModel,
    rows: TokenRows,
    chosen: Sequence[int],
    batch_size: int,
    tell: Callable[[int], None] = lambda _: None,
) -> int:
    """Add to the gradients of a model's parameters those of the summed loss of some rows.

    Args:
        model: Its parameters are float32.
        rows: A split.
        chosen: Which of its rows.
        batch_size: Most rows at once.
        tell: Is told how many more rows are done.

    Returns:
        How many of their tokens count.
    """
    tokens = 0
    for batch in by_length(rows.lengths[list(chosen)], batch_size, longest_short(model.config)):
        nll, counts = row_nll(model, [rows[chosen[i]] for i in batch])
        nll.sum().backward()  # type: ignore[no-untyped-call]
        tokens += sum(counts)
        tell(len(batch))
    return tokens


class Along:
    """Takes derivatives of losses along directions; while it is entered, backward passes leave no gradients.

    Args:
        model: Its parameters are float32.
        directions: The directions.
    """

    def __init__(self, model: PreTrainedModel, directions: Sequence[Direction]) -> None:
        self._model, self._directions = model, directions
        self._dots: list[list[float]] = [[] for _ in directions]
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        # A hook that held this would keep the directions in memory until Python looks for cycles.
        take = weakref.WeakMethod(self._take)
        for name, parameter in self._model.named_parameters():
            hooked: Any = parameter
            self._hooks.append(hooked.register_post_accumulate_grad_hook(partial(_call, take, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._model.zero_grad(set_to_none=True)

    def measure(
        self,
        rows: TokenRows,
        parts: Sequence[Sequence[int]],
        tell: Callable[[int], None] = lambda _: None,
    ) -> Measured:
        """The losses of some rows, and their derivatives.

        Args:
            rows: A split.
            parts: Which of its rows, those of a part at once. Parts of one row tell best how sure the whole is.
            tell: Is told how many more rows are done.
        """
        found: list[tuple[float, int, list[float]]] = []
        for part in parts:
            found.append(self._measure(rows, part))
            tell(len(part))
        nll, tokens, slopes = zip(*found, strict=True) if found else ((), (), ())
        return Measured(
            np.array(nll, np.float64),
            np.array(tokens, np.int64),
            np.array(slopes, np.float64).reshape(len(parts), len(self._directions)),
        )

    def _measure(self, rows: TokenRows, part: Sequence[int]) -> tuple[float, int, list[float]]:
        nll, tokens = row_nll(self._model, [rows[index] for index in part])
        nll.sum().backward()  # type: ignore[no-untyped-call]
        # The exact sum, rounded once: the order in which gradients come is the library's, and reaches no bit.
        slopes = [math.fsum(dots) for dots in self._dots]
        for dots in self._dots:
            dots.clear()
        return math.fsum(nll.tolist()), sum(tokens), slopes

    @torch.no_grad()
    def _take(self, name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(-1)
        for dots, direction in zip(self._dots, self._directions, strict=True):
            if (values := direction.get(name)) is not None:
                dots.append(_dot(gradient, values.reshape(-1)))
        parameter.grad = None


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    # Chunks are summed in float64: a tensor has millions of products, of both signs, and what is left of them is far
    # smaller than they are.
    total = torch.zeros((), dtype=torch.float64, device=one.device)
    for start in range(0, one.numel(), CHUNK):
        total += torch.dot(one[start : start + CHUNK], other[start : start + CHUNK])
    return float(total)


def _call(take: weakref.WeakMethod[Any], name: str, parameter: torch.Tensor) -> None:
    if (found := take()) is not None:
        found(name, parameter)
