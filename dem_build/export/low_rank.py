"""A vector of all weights as an adapter: the best approximation of each linear layer's difference by a low rank.

For a difference M of [rows, columns] and rank r that is U Uᵀ M, where U are the r first left singular vectors (Eckart
and Young 1936): eigenvectors of M Mᵀ; of Mᵀ M, on the other side, where that is smaller. They are computed in float64,
which leaves errors below float32's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh

from dem_build.checkpoint.factors import LowRank
from dem_build.checkpoint.floats import squared_sum
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.factors import Place
    from dem_build.checkpoint.reader import Checkpoint

PIECE = 1 << 22  # elements whose length is taken at a time


@dataclass(frozen=True)
class Missing:
    """What an adapter lacks of a vector, as shares of the vector's length ‖ΔΘ‖.

    Attributes:
        total: ‖ΔΘ - adapter‖ / ‖ΔΘ‖.
        beside: The part of it that no adapter of linear layers holds: embeddings, a head, norms, biases.
    """

    total: float
    beside: float


def layers_of(config: Path, names: Mapping[str, Any], where: str) -> dict[str, Place]:
    """Where an adapter has the linear layers of a model: name of a tensor of its files → module.

    Raises:
        CheckpointError: transformers does not know the model.
        TrainingError: A layer whose weight is no tensor by itself.
    """
    # Imported here, as they bring torch: a mistake in a call is told before that.
    from dem_build.model.architecture import architecture  # noqa: PLC0415
    from dem_build.model.linear_layers import linear_places  # noqa: PLC0415

    return linear_places(architecture(parse_json(config.read_text(encoding="utf-8")), where).built, names)


def truncated(
    delta: Checkpoint, places: Mapping[str, Place], rank: int
) -> tuple[dict[str, tuple[LowRank[NDArray[np.float32]], Place]], Missing]:
    """Factors that come as near to a vector as their rank lets them, as `write_factors` takes them.

    Args:
        delta: ΔΘ, not yet open for reading. One of its tensors at a time is in memory, in float64.
        places: Of the tensors that get factors.
        rank: Of each of them; zeros fill up what a smaller matrix has no use for.

    Raises:
        CheckpointError: Weights that cannot be read.
    """
    factors, lengths, lost, beside = {}, [0.0], [0.0], [0.0]
    with delta:
        for key, tensor in delta.tensors.items():
            if key in places:
                matrix = delta.read(key).astype(np.float64)
                found, error = truncate(matrix, rank)
                factors[key] = (found, places[key])
                lengths.append(float(np.vdot(matrix, matrix)))
                lost.append(error)
                continue
            for start in range(0, tensor.size, PIECE):
                piece = delta.floats(tensor, start, min(PIECE, tensor.size - start))
                beside.append(squared_sum(piece))
    outside = math.fsum(beside)
    whole = math.fsum(lengths) + outside or 1.0
    return factors, Missing(math.sqrt((math.fsum(lost) + outside) / whole), math.sqrt(outside / whole))


def truncate(matrix: NDArray[np.float64], rank: int) -> tuple[LowRank[NDArray[np.float32]], float]:
    """The best approximation of a matrix by a rank, and the square of the length that it lacks.

    Args:
        matrix: M, [rows, columns].
        rank: Columns of B and rows of A in B A.
    """
    rows, columns = matrix.shape
    wide = rows <= columns
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    kept = min(rank, len(gram))
    _, vectors = eigh(gram, subset_by_index=[len(gram) - kept, len(gram) - 1])
    b, a = (vectors, vectors.T @ matrix) if wide else (matrix @ vectors, vectors.T)
    missing = matrix - b @ a
    pad = rank - kept
    stored = LowRank(
        np.pad(b, ((0, 0), (0, pad))).astype(np.float32),
        np.pad(a, ((0, pad), (0, 0))).astype(np.float32),
        1.0,
    )
    return stored, float(np.vdot(missing, missing))
