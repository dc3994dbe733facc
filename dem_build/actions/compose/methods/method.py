"""What a way to compose is: all that a recipe's rules, the graph, the sum, the card and the report ask of it.

A way to compose is a function of the float32 values of some elements. Each element is computed alone and rounded once
afterwards, by operations that are a numpy call each, so that no compiler fuses a product with a sum. Hence no thread
count, chunk size or CPU reaches a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

__all__ = ["Chunk", "Method", "Tensor"]


class Tensor(Protocol):
    """One tensor of the base, with what each vector changes in it."""

    @property
    def base(self) -> Values:
        """Θ, all of it, flat."""
        ...

    def vectors(self) -> Iterator[tuple[Values, np.float32]]:
        """ΔΘ of each vector whose ω is not 0 here, all of it, flat, and its ω: those of `Chunk.terms`, in its order."""
        ...


class Chunk(Protocol):
    """Some elements of one tensor, while they are computed."""

    @property
    def prepared(self) -> Any:
        """What the method's `prepare` made of the tensor; None where it has none."""
        ...

    @property
    def base(self) -> Values:
        """Θ, to be read only."""
        ...

    def terms(self) -> Iterator[tuple[Values, np.float32]]:
        """ΔΘ of each vector whose ω is not 0 here, and its ω, in the order of digests.

        All lie in one buffer, one after another; it may be changed.
        """
        ...

    def zeros(self) -> Values:
        """As many zeros, in the buffer of the result."""
        ...

    def add(self, so_far: Values, term: Values, omega: np.float32) -> Values:
        """so_far + (ω · term), in the buffer of the result; `term` is overwritten."""
        ...


@dataclass(frozen=True)
class Method:
    """A way to compose.

    Attributes:
        name: In recipes and keys.
        formula: For a page.
        sentence: For the model card, in Markdown, with what its letters stand for.
        omega: What a vector's `omega` means for it.
        default: The `omega` of a vector for which the recipe says none: a number, or `tune`.
        combine: Computes the result of some elements; None where another kind of action makes the model.
        prepare: Makes what `combine` needs of a whole tensor, such as a threshold; None for nothing.
        linear: Whether the model is Θ + Σ ωᵢ ΔΘᵢ: then ω can be searched, and what one vector does be told by another ω
            of it.
        single: Whether it makes the fine-tuned model of one vector with ω = 1. Else Eq. 2 makes that, where a single
            vector is to be measured.
        total: What the ω have to sum to; None for anything.
        shares: Whether ω count by their shares of Σ ω: none is below 0, and one is above.
        vectors: How many vectors it takes; None for any number.
        keys: The keys of `[compose]` that it reads, beside `dtype`.
    """

    name: str
    formula: str
    sentence: str
    omega: str
    default: float | Literal["tune"]
    combine: Callable[[Chunk], Values] | None = None
    prepare: Callable[[Tensor], Any] | None = None
    linear: bool = False
    single: bool = False
    total: float | None = None
    shares: bool = False
    vectors: int | None = None
    keys: tuple[str, ...] = ()
