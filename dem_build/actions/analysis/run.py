"""Kind `analysis`: how the vectors lie to each other and to the base. Torch-free, streamed.

With vectors Δ_1 … Δ_n, their inner products G_ij = ⟨Δ_i, Δ_j⟩, the mean m = Σ Δ_i / n and the base Θ:

    norm              ‖Δ_i‖ = √G_ii, relative to the base ‖Δ_i‖ / ‖Θ‖
    cosine            G_ij / √(G_ii G_jj)
    cosine, centred   the same of Δ_i - m: of n vectors at right angles and of one length it is -1 / (n - 1)
    shared            ‖m‖² / (Σ ‖Δ_i‖² / n): the part of the mean squared length that all vectors have in common; 1
                      where they are all the same, 1 / n where they are at right angles
    sign conflict     of the elements at which both are other than 0, the share at which their signs differ; over all
                      vectors, of the elements at which at least two are other than 0, the share at which not all of
                      these have one sign

each over all elements and over those of each layer; and ‖Δ_i‖ over each kind of module in each layer, which is the
Euclidean distance of the fine-tuned model to the base there. What has no value (an angle with a vector of zeros) is
null.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.floats import FLOATS
from dem_build.checkpoint.layers import kind_of, layer_of, layers_of
from dem_build.checkpoint.products import Sums, sum_products
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.wording import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from dem_build.digest import JSON, Digest
    from dem_build.step import Context, Inputs, Provenance

FORMAT = "analysis/1"
NOTHING = 1e-12  # of the squared length: less than this is left of a vector where only rounding is


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `tables`.

    Args:
        inputs: `base/weights`, and the vectors as terms.
        params: None.
        context: Where and how.

    Raises:
        CheckpointError: A vector that does not fit the base, or weights that are not finite.
        InterruptedBuildError: The user asked to stop.
    """
    assert not params
    started = time.monotonic()
    sums = _sums(inputs, context)
    broken = [name for name, s in sums.items() if not np.isfinite([s.base, *s.gram.flat]).all()]
    if broken:
        raise CheckpointError(f"{broken[0]} is not finite, in the base or in a vector")
    document = _tables([term.at.digest for term in inputs.terms], sums)
    context.write("tables", document)
    whole = document["whole"]
    return {
        "seconds": round(time.monotonic() - started, 3),
        "vectors": len(inputs.terms),
        **{name: whole[name] for name in ("elements", "base_norm", "shared", "sign_conflict")},
    }


def _sums(inputs: Inputs, context: Context) -> dict[str, Sums]:
    base = open_checkpoint(inputs.paths["base/weights"])
    digest = inputs.digests["base/weights"]
    vectors = [open_delta(t.at.path, base, digest, vector_name(t.at.digest)) for t in inputs.terms]
    total = sum(tensor.size for tensor in base.tensors.values() if tensor.dtype in FLOATS)
    with ExitStack() as stack:
        for checkpoint in (base, *vectors):
            stack.enter_context(checkpoint)
        return sum_products(
            base, vectors, threads=context.threads, on_progress=context.teller(total, "elements")
        )


def _tables(vectors: list[Digest], sums: Mapping[str, Sums]) -> dict[str, JSON]:
    """The tables as they are written."""
    layers = layers_of(list(sums))
    kinds = list(dict.fromkeys(kind_of(name) for name in sums))
    of_layer = {layer: [s for name, s in sums.items() if layer_of(name) == layer] for layer in layers}
    of_cell = {
        (layer, kind): [s for name, s in sums.items() if (layer_of(name), kind_of(name)) == (layer, kind)]
        for layer in layers
        for kind in kinds
    }
    lengths = {cell: _norms(_total(len(vectors), found)) for cell, found in of_cell.items() if found}
    return {
        "format": FORMAT,
        "vectors": vectors,
        "layers": layers,
        "kinds": kinds,
        "whole": _compared(_total(len(vectors), sums.values())),
        "by_layer": [_compared(_total(len(vectors), of_layer[layer])) for layer in layers],
        "distances": [
            [
                [float(lengths[layer, kind][v]) if (layer, kind) in lengths else None for kind in kinds]
                for layer in layers
            ]
            for v in range(len(vectors))
        ],
    }


def _total(vectors: int, sums: Iterable[Sums]) -> Sums:
    return reduce(add, sums, Sums.none(vectors))


def _norms(sums: Sums) -> NDArray[np.float64]:
    return np.sqrt(np.diagonal(sums.gram))


def _compared(sums: Sums) -> dict[str, JSON]:
    """What the sums over some elements say of the vectors."""
    count = len(sums.gram)
    # Inner products of Δ_i - m follow from those of Δ_i: C G C with C = I - 1/n, so no second pass over the vectors.
    center = np.eye(count) - 1 / count
    squares = np.diagonal(sums.gram)
    base = float(np.sqrt(sums.base))
    return {
        "elements": sums.elements,
        "base_norm": base,
        "norms": _norms(sums).tolist(),
        "relative_norms": [_ratio(norm, base) for norm in _norms(sums).tolist()],
        "cosines": _cosines(sums.gram, squares),
        "centred_cosines": _cosines(center @ sums.gram @ center, squares),
        # ‖Σ Δ_i / n‖² is the sum of all inner products by n²; both sides of the ratio times n.
        "shared": _ratio(float(sums.gram.sum()) / count, float(squares.sum())),
        "sign_conflicts": [
            [_ratio(int(o), int(b)) for o, b in zip(*rows, strict=True)]
            for rows in zip(sums.opposed, sums.both, strict=True)
        ],
        "sign_conflict": _ratio(sums.torn, sums.several),
    }


def _cosines(gram: NDArray[np.float64], squares: NDArray[np.float64]) -> list[list[float | None]]:
    """Cosines, [vectors, vectors]; None where next to nothing is left of a vector.

    Args:
        gram: Inner products.
        squares: Squared lengths that next to nothing is measured against, [vectors].
    """
    length = np.sqrt(np.maximum(np.diagonal(gram), 0))
    # Of equal vectors nothing is left when their mean is taken off, but rounding: an angle of that says nothing.
    there = np.diagonal(gram) > NOTHING * squares
    return [
        [
            float(np.clip(gram[i, j] / (length[i] * length[j]), -1, 1)) if there[i] and there[j] else None
            for j in range(len(gram))
        ]
        for i in range(len(gram))
    ]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
