"""The tensors of a model's files under the names of its architecture, after every check that needs none of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dem_build.basemodel import INDEX, shards_of
from dem_build.checkpoint import CODES, FLOATS, Checkpoint, check_index, open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.steps.architecture import resolve_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dem_build.checkpoint import TensorInfo
    from dem_build.steps.architecture import Architecture

__all__ = ["open_files", "select"]

COMPARED = 1 << 20  # elements of two tied tensors that are compared at once


def open_files(files: Mapping[str, Path]) -> Checkpoint:
    """Open weights; each file's digest is in the key, so what is not among `files` does not count.

    Args:
        files: Name → file: `model.safetensors`, or shards and their index.

    Raises:
        CheckpointError: Damaged files, or an index that disagrees with its shards.
    """
    if INDEX not in files:
        return open_checkpoint([path for tag, path in sorted(files.items()) if tag.endswith(".safetensors")])
    shards = shards_of(files[INDEX])
    checkpoint = open_checkpoint([files[tag] for tag in sorted(set(shards.values()))])
    check_index(checkpoint, shards, files[INDEX])
    return checkpoint


def select(weights: Architecture, stored: Checkpoint, where: str) -> Checkpoint:
    """Return the architecture's tensors under its own names, in file order, after every check of them.

    Raises:
        CheckpointError: Missing or unknown tensors, shapes or formats that differ, tied tensors that differ.
    """
    names = resolve_names(weights, stored.tensors, where)
    for name, found in names.held.items():
        _check_tensor(weights, name, stored.tensors[found])
    with stored:
        for copy, twin in names.twins.items():
            if not _equal(stored, stored.tensors[copy], stored.tensors[twin]):
                raise CheckpointError(
                    f"{copy} and {twin} differ, and config.json ties them",
                    where=where,
                    hint='set "tie_word_embeddings": false in config.json, or remove the one that is not meant',
                )
    own = {found: name for name, found in names.held.items()}
    kept = {own[n]: replace(t, name=own[n]) for n, t in stored.tensors.items() if n in own}
    return Checkpoint(kept, {})


def _check_tensor(weights: Architecture, name: str, tensor: TensorInfo) -> None:
    if tensor.shape != weights.shapes[name]:
        what = f"{tensor.name} has the shape {tensor.shape}, and {weights.model} has {weights.shapes[name]}"
        hint = "config.json and the weights must be of one model"
        raise CheckpointError(what, where=str(tensor.path), hint=hint)
    if name in weights.floats and tensor.dtype not in FLOATS:
        what = f"{tensor.name} is stored as {tensor.dtype}; dem takes {', '.join(CODES)}"
        raise CheckpointError(what, where=str(tensor.path), hint="take the model's float original")


def _equal(stored: Checkpoint, one: TensorInfo, other: TensorInfo) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    size = one.nbytes // max(one.size, 1)
    for start in range(0, one.size, COMPARED):
        count = min(COMPARED, one.size - start) * size
        pair = np.empty((2, count), np.uint8)
        stored.read_into(one, start, pair[0])
        stored.read_into(other, start, pair[1])
        if not np.array_equal(pair[0], pair[1]):
            return False
    return True
