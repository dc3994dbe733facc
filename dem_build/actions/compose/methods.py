"""The ways to compose a model of a base and its vectors: an entry each, which all else reads.

`METHODS` is the one list of them: what a recipe may name, its rules and its documentation, the graph, the sum, the card
and the report go by it.

A way to compose is a function of the float32 values of some elements. Each element is computed alone and rounded once
afterwards, by operations that are a numpy call each, so that no compiler fuses a product with a sum. Hence no thread
count, chunk size or CPU reaches a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

__all__ = ["EDIT", "METHODS", "Chunk", "Method", "Tensor"]


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
        combine: Computes the result of some elements.
        linear: Whether the model is Θ + Σ ωᵢ ΔΘᵢ: then ω can be searched, and what one vector does be told by another ω
            of it.
        total: What the ω have to sum to; None for anything.
        prepare: Makes what `combine` needs of a whole tensor, such as a threshold; None for nothing.
    """

    name: str
    formula: str
    sentence: str
    combine: Callable[[Chunk], Values]
    linear: bool
    total: float | None = None
    prepare: Callable[[Tensor], Any] | None = None


def _edit(chunk: Chunk) -> Values:
    """Result = Θ; for each vector: result = result + (ω · ΔΘ)."""
    so_far = chunk.base
    for vector, omega in chunk.terms():
        so_far = chunk.add(so_far, vector, omega)
    return so_far


def _interpolate(chunk: Chunk) -> Values:
    """Result = 0; for each vector: result = result + (ω · (Θ + ΔΘ))."""
    so_far = chunk.zeros()
    for vector, omega in chunk.terms():
        model = vector
        model += chunk.base  # in the vector's buffer, which is read anew for each chunk
        so_far = chunk.add(so_far, model, omega)
    return so_far


EDIT = Method(
    name="dem",
    formula="Θ + Σ ωᵢ ΔΘᵢ",
    sentence="`Θ_D = Θ + Σ ω_i ΔΘ_i`, where `ΔΘ_i` is what fine-tuning the base `Θ` on dataset `i` changed",
    combine=_edit,
    linear=True,
)
"""Eq. 2 of arXiv 2406.15570."""
INTERPOLATION = Method(
    name="interpolation",
    formula="Σ ωᵢ Θᵢ",
    sentence="`Θ_I = Σ ω_i Θ_i`, where `Θ_i` is the base fine-tuned on dataset `i`",
    combine=_interpolate,
    linear=False,
    total=1.0,
)
"""Eq. 3 of arXiv 2406.15570."""

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in (EDIT, INTERPOLATION)})
