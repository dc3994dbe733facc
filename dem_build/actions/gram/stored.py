"""Gram matrices as files: one for each decoder layer, with the lower triangle of each matrix.

A folder of safetensors files. A file's metadata say `{"dem": "gram/1", "base": DIGEST, "delta": DIGEST, "of": JSON}`:
the digests of the base's folder of weights and of the vector, and an object of names of the base's weights → the matrix
of their inputs. Weights that are given the same have one matrix. It is float32, row by row, up to the diagonal.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import Writer
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json
from dem_build.wording import overflow_hint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import Digest

GRAM_FORMAT = "gram/1"


def write_layer(
    path: Path,
    belongs: Mapping[str, Digest],
    of: Mapping[str, str],
    grams: Mapping[str, NDArray[np.float64]],
    dtype: str,
) -> Digest:
    """Write the matrices of a layer; return the digest of their file.

    Args:
        path: The file; it must not exist.
        belongs: The digests of `base` and `delta`.
        of: Name of a weight → name of the matrix of its inputs.
        grams: Name → the matrix [width, width], of which the lower triangle counts.
        dtype: What the model was in.

    Raises:
        CheckpointError: A matrix that is not finite in float32.
    """
    sizes = {name: len(gram) * (len(gram) + 1) // 2 for name, gram in grams.items()}
    specs = [TensorSpec(name, "F32", (size,)) for name, size in sizes.items()]
    metadata = {"dem": GRAM_FORMAT, **belongs, "of": json.dumps(of, sort_keys=True)}
    with Writer({path: specs}, metadata) as writer:
        for name, gram in grams.items():
            with np.errstate(over="ignore"):
                packed = np.concatenate([row[: i + 1] for i, row in enumerate(gram)]).astype(np.float32)
            if not np.isfinite(packed).all():
                raise CheckpointError(
                    f"what {name} is given is not finite",
                    hint=overflow_hint(dtype),
                )
            writer.write(name, 0, packed)
    return writer.digests[path]


class Grams:
    """The Gram matrices of one vector, open until `stack` is left.

    Args:
        folder: As `write_layer` filled it.
        belongs: The digests of `base` and `delta`.
        name: What messages call it.
        stack: Closes the files.

    Attributes:
        of: Name of a weight → name of the matrix of its inputs.

    Raises:
        CheckpointError: They are those of another vector.
    """

    def __init__(self, folder: Path, belongs: Mapping[str, Digest], name: str, stack: ExitStack) -> None:
        self.of: dict[str, str] = {}
        self._files: dict[str, Checkpoint] = {}
        for path in sorted(folder.iterdir()):
            file = open_checkpoint(path)
            if {key: file.metadata.get(key) for key in ("dem", *belongs)} != {"dem": GRAM_FORMAT, **belongs}:
                hint = f"`--rebuild gram:{name}` makes them again"
                raise CheckpointError("are no Gram matrices of this vector", where=str(path), hint=hint)
            stack.enter_context(file)
            self.of |= parse_json(file.metadata["of"])
            self._files |= dict.fromkeys(file.tensors, file)

    def read(self, gram: str) -> NDArray[np.float64]:
        """One matrix, both triangles."""
        packed = self._files[gram].read(gram)
        width = (math.isqrt(8 * packed.size + 1) - 1) // 2
        made = np.empty((width, width))
        start = 0
        for i in range(width):
            made[i, : i + 1] = made[: i + 1, i] = packed[start : start + i + 1]
            start += i + 1
        return made
