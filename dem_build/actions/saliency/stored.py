"""Saliency as a file: a vector for each input of linear modules, with a number for each token of a sample's rows.

A safetensors file. Its metadata say `{"dem": "saliency/1", "base": DIGEST, "delta": DIGEST, "of": JSON}`: the digests
of the base's folder of weights and of the vector, and an object of names of the base's weights → the vector of their
input. It is float32 [tokens], of all rows one after another.
"""

from __future__ import annotations

import json
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
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.digest import Digest

    Values = NDArray[np.float32]

FORMAT = "saliency/1"


def write_saliency(
    path: Path, belongs: Mapping[str, Digest], of: Mapping[str, str], found: Mapping[str, Values]
) -> Digest:
    """Write the saliency of a sample's tokens; return the digest of the file.

    Args:
        path: The file; it must not exist.
        belongs: The digests of `base` and `delta`.
        of: Name of a weight → name of that of its input.
        found: Name → float32 [tokens].

    Raises:
        CheckpointError: Saliency that is not finite.
    """
    metadata = {"dem": FORMAT, **belongs, "of": json.dumps(of, sort_keys=True)}
    with Writer(
        {path: [TensorSpec(n, "F32", values.shape) for n, values in found.items()]}, metadata
    ) as writer:
        for name, values in found.items():
            if not np.isfinite(values).all():
                what = f"what {name} puts out moves the loss by more than a number can say"
                raise CheckpointError(what, hint=overflow_hint("float32"))
            writer.write(name, 0, values)
    return writer.digests[path]


def read_saliency(path: Path, belongs: Mapping[str, Digest], name: str, tokens: int) -> dict[str, Values]:
    """Name of a weight → the saliency of each token at its input, [tokens].

    Args:
        path: As `write_saliency` wrote it.
        belongs: The digests of `base` and `delta`.
        name: What messages call the vector.
        tokens: Of all rows.

    Raises:
        CheckpointError: It is of another vector, or of other rows.
    """
    hint = f"`--rebuild saliency:{name}` makes it again"
    with open_checkpoint(path) as file:
        if {key: file.metadata.get(key) for key in ("dem", *belongs)} != {"dem": FORMAT, **belongs}:
            raise CheckpointError("is no saliency of this vector", where=str(path), hint=hint)
        found = {of: file.read(of) for of in file.tensors}
        for values in found.values():
            if values.shape != (tokens,):
                what = f"is of {len(values)} tokens, and the rows have {tokens}"
                raise CheckpointError(what, where=str(path), hint=hint)
        return {weight: found[of] for weight, of in parse_json(file.metadata["of"]).items()}
