"""`interpolation`: a weighted sum of the fine-tuned models, Eq. 3 of arXiv 2406.15570."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.method import Method

if TYPE_CHECKING:
    from dem_build.actions.compose.methods.method import Chunk, Values


def _interpolate(chunk: Chunk) -> Values:
    """Result = 0; for each vector: result = result + (ω · (Θ + ΔΘ))."""
    so_far = chunk.zeros()
    for vector, omega in chunk.terms():
        model = vector
        model += chunk.base  # in the vector's buffer, which is read anew for each chunk
        so_far = chunk.add(so_far, model, omega)
    return so_far


INTERPOLATION = Method(
    name="interpolation",
    formula="Σ ωᵢ Θᵢ",
    sentence="`Θ_I = Σ ω_i Θ_i`, where `Θ_i` is the base fine-tuned on dataset `i`",
    keeps="each model's share of every weight",
    omega="the model's weight in the sum; all together 1",
    default="tune",  # which is refused: each ω is to be said
    combine=_interpolate,
    total=1.0,
    single=True,
)
