"""`dem`: the base and a weighted sum of its vectors, Eq. 2 of arXiv 2406.15570."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.method import Method

if TYPE_CHECKING:
    from dem_build.actions.compose.methods.method import Chunk, Values


def _edit(chunk: Chunk) -> Values:
    """Result = Θ; for each vector: result = result + (ω · ΔΘ)."""
    so_far = chunk.base
    for vector, omega in chunk.terms():
        so_far = chunk.add(so_far, vector, omega)
    return so_far


EDIT = Method(
    name="dem",
    formula="Θ + Σ ωᵢ ΔΘᵢ",
    sentence="`Θ_D = Θ + Σ ω_i ΔΘ_i`, where `ΔΘ_i` is what fine-tuning the base `Θ` on dataset `i` changed",
    keeps="each change, times its ω",
    omega="the vector's weight in the sum",
    default="tune",
    combine=_edit,
    linear=True,
    tuned=True,
    single=True,
)
