"""What a way to compose is: all that a recipe's rules, the graph, the sum, the card and the report ask of it.

A way to compose is a function of the float32 values of some elements. Each element is computed alone and rounded once
afterwards, by operations that are a numpy call each, so that no compiler fuses a product with a sum. Hence no thread
count, chunk size or CPU reaches a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

PIECE = 1 << 20  # elements


class Tensor(Protocol):
    """One tensor of the base, with what each vector changes in it: what is prepared is of all of its elements."""

    @property
    def name(self) -> str:
        """Its name in the files of weights."""
        ...

    @property
    def size(self) -> int:
        """How many elements it has."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """The method's keys of `[compose]` and their values."""
        ...

    @property
    def terms(self) -> Sequence[tuple[str, np.float32]]:
        """Digest and ω of each vector whose ω is not 0 here: those of `Chunk.terms`, in its order."""
        ...

    def base(self, start: int, stop: int) -> Values:
        """Θ, some elements of it."""
        ...

    def vector(self, term: int, start: int, stop: int) -> Values:
        """ΔΘ of one of `terms`, some elements of it; it may be changed."""
        ...


class Chunk(Protocol):
    """Some elements of one tensor, while they are computed."""

    @property
    def prepared(self) -> Any:
        """What the method's `prepare` made of the tensor; None where it has none."""
        ...

    @property
    def elements(self) -> slice:
        """Which of the tensor's elements they are. Their order in the buffers is another: see `placed`."""
        ...

    def placed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of `elements`, given in the tensor's order, in that of the buffers, which may hold one more."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """As of the tensor."""
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

    def add(self, so_far: Values, term: Values, omega: float | np.float32) -> Values:
        """so_far + (ω · term), ω rounded to float32, in the buffer of the result; `term` is overwritten."""
        ...


@dataclass(frozen=True)
class Method:
    """A way to compose.

    Attributes:
        name: In recipes and keys.
        formula: For a page.
        sentence: For the model card, in Markdown, with what its letters stand for.
        keeps: What of the fine-tuned models is kept, in a few words.
        omega: What a vector's `omega` means for it.
        default: The `omega` of a vector for which the recipe says none: a number, or `tune`.
        combine: Computes the result of some elements; None where another kind of action makes the model.
        prepare: Makes what `combine` needs of a whole tensor, such as a threshold; None for nothing.
        linear: Whether the model is Θ + Σ ωᵢ ΔΘᵢ: then what one vector does can be told by another ω of it.
        tuned: Whether ω can be searched.
        given: Whether a recipe can give ω.
        single: Whether it makes the fine-tuned model of one vector with ω = 1. Else Eq. 2 makes that, where a single
            vector is to be measured.
        total: What the ω have to sum to; None for anything.
        shares: Whether ω count by their shares of Σ ω: none is below 0, and one is above.
        sampled: Whether each vector has to come with training rows, and so of a dataset.
        vectors: How many vectors it takes; None for any number.
        keys: The keys of `[compose]` that it reads, beside `dtype`.
        candidates: Models of which it takes the best: name → the method of each, the plainer ones first.
    """

    name: str
    formula: str
    sentence: str
    keeps: str
    omega: str
    default: float | Literal["tune"]
    combine: Callable[[Chunk], Values] | None = None
    prepare: Callable[[Tensor], Any] | None = None
    linear: bool = False
    tuned: bool = False
    given: bool = True
    single: bool = False
    total: float | None = None
    shares: bool = False
    sampled: bool = False
    vectors: int | None = None
    keys: tuple[str, ...] = ()
    candidates: Mapping[str, str] = field(default_factory=dict)


def pieces(size: int) -> Iterator[tuple[int, int]]:
    """Where a method that looks at a whole tensor may cut it, so that memory is a few megabytes: starts and stops."""
    for start in range(0, size, PIECE):
        yield start, min(start + PIECE, size)
