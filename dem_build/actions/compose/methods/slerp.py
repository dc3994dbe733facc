"""`slerp`: two fine-tuned models, and a step along the arc from one to the other (Shoemake, SIGGRAPH 1985).

As mergekit does it: each tensor for itself, as one long vector; where the two point nearly the same way or opposite
ways (|cos| > 0.9995), on the straight line between them. Fine-tunes of one base nearly always do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.method import Method, pieces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dem_build.actions.compose.methods.method import Chunk, Tensor, Values

STRAIGHT = 0.9995  # above this |cos| the arc is taken for its chord, as mergekit does
NO_LENGTH = 1e-8  # below this length a tensor has no direction: cos is 0 then


def _coefficients(tensor: Tensor) -> list[float]:
    """What the two models are multiplied by; 1 where there is one, the other's ω being 0."""
    if len(tensor.terms) == 1:
        return [1.0]
    (_, one), (_, other) = tensor.terms
    t = float(other) / (float(one) + float(other))
    cos = _cosine(tensor)
    if abs(cos) > STRAIGHT:
        return [1 - t, t]
    angle = math.acos(cos)
    return [math.sin(part * angle) / math.sin(angle) for part in (1 - t, t)]


def _cosine(tensor: Tensor) -> float:
    products = []
    for start, stop in pieces(tensor.size):
        base = tensor.base(start, stop)
        one, other = ((tensor.vector(term, start, stop) + base).astype("f8") for term in (0, 1))
        products.append((_sum(one * one), _sum(other * other), _sum(one * other)))
    of_one, of_other, of_both = (math.fsum(column) for column in zip(*products, strict=True))
    lengths = (math.sqrt(of_one), math.sqrt(of_other))
    product = math.prod(length if length > NO_LENGTH else 1.0 for length in lengths)
    return min(max(of_both / product, -1.0), 1.0)


def _sum(values: NDArray[np.float64]) -> float:
    """The sum, by halves that are added to each other: numpy's own sums and BLAS' add in an order that is theirs."""
    while values.size > 1:
        half = values.size // 2
        rest = values[2 * half :]
        values = values[:half] + values[half : 2 * half]
        values[: rest.size] += rest
    return float(values[0])


def _step(chunk: Chunk) -> Values:
    """Result = 0; for each of the two models: result = result + (coefficient · (Θ + ΔΘ))."""
    so_far = chunk.zeros()
    for (vector, _), coefficient in zip(chunk.terms(), chunk.prepared, strict=True):
        model = vector
        model += chunk.base
        so_far = chunk.add(so_far, model, coefficient)
    return so_far


SLERP = Method(
    name="slerp",
    formula="slerp(Θ₁, Θ₂; t)",
    sentence=(
        "spherical interpolation of two models, tensor by tensor: `(sin((1−t)φ) Θ_1 + sin(tφ) Θ_2) / sin φ`, where "
        "`Θ_i` is the base fine-tuned on dataset `i`, `φ` the angle between them and `t = ω_2 / (ω_1 + ω_2)`; on the "
        "straight line where `|cos φ| > 0.9995`"
    ),
    keeps="how long the weights are, between the two",
    omega="the model's share of the way: t = ω₂ / (ω₁ + ω₂)",
    default=1.0,
    combine=_step,
    prepare=_coefficients,
    shares=True,
    vectors=2,
)
