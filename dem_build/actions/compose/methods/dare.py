"""`dare`: changes are dropped at random, and what is left is scaled up, before they are summed (arXiv 2311.03099).

Which are dropped is a function of the seed, the vector's digest, the tensor's name and the element's place in it, by
the counter-based generator Philox (Salmon et al., SC 2011): no thread, chunk or order reaches it, and a vector that is
added changes nothing of what is dropped of the others. What is left is scaled by 1 / density, as the paper has it:
mergekit scales it so that Σ |ΔΘ| of the tensor stays, which differs by as much as chance has kept.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.method import Method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dem_build.actions.compose.methods.method import Chunk, Tensor, Values

BLOCK = 8  # numbers of 32 bits that Philox gives for one value of its counter


def philox_key(seed: int, digest: str, tensor: str) -> int:
    """The generator's key for one tensor of a vector: 128 bits."""
    found = hashlib.sha256(f"{seed} {digest} {tensor}".encode()).digest()
    return int.from_bytes(found[:16], "little")


def kept(key: int, elements: slice, density: float) -> NDArray[np.bool_]:
    """Which of some elements of a tensor are kept: each by a number of 32 bits of its own."""
    import numpy as np  # noqa: PLC0415  rules of recipes read this file's entry, and no numbers

    first = elements.start // BLOCK
    skipped = elements.start - first * BLOCK
    count = -(-(skipped + elements.stop - elements.start) // BLOCK)
    words = np.random.Philox(key=key, counter=first).random_raw(count * BLOCK // 2)
    numbers = words.astype("<u8").view("<u4")[skipped : skipped + elements.stop - elements.start]
    below: NDArray[np.bool_] = numbers < np.uint64(round(density * 2.0**32))
    return below


def _keys(tensor: Tensor) -> list[int]:
    return [philox_key(tensor.params["seed"], digest, tensor.name) for digest, _ in tensor.terms]


def _sum(chunk: Chunk) -> Values:
    """Result = Θ; for each vector: result = result + (ω · (what is kept of ΔΘ / density))."""
    density = chunk.params["density"]
    so_far = chunk.base
    for (vector, omega), key in zip(chunk.terms(), chunk.prepared, strict=True):
        vector[chunk.placed(~kept(key, chunk.elements, density))] = 0
        left = vector
        left /= density
        so_far = chunk.add(so_far, left, omega)
    return so_far


DARE = Method(
    name="dare",
    formula="Θ + Σ ωᵢ drop(ΔΘᵢ)",
    sentence=(
        "DARE (arXiv 2311.03099): `Θ + Σ ω_i drop(ΔΘ_i)`, where `drop` keeps each change with a chance, the density, "
        "and divides it by that; `ΔΘ_i` is what fine-tuning the base `Θ` on dataset `i` changed"
    ),
    keeps="a random share of each change, and on average all of it",
    omega="the vector's weight in the sum",
    default=1.0,
    combine=_sum,
    prepare=_keys,
    keys=("density", "seed"),
)
