"""Rows for tokens that a base's embeddings have no row for: its word embeddings and its head, tied or not.

A new row is the mean of the rows of the tokens that the base knows. A random row, or one of zeros, would get a logit
that has nothing to do with the others', and where these are negative takes much of the probability from them before
anything is trained; the mean's logit is the mean of theirs (J. Hewitt, "Initializing new word embeddings for pretrained
language models", 2021). It also makes the same bytes wherever it is computed, and takes no seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dem_build.checkpoint.floats import FLOATS, narrow, widen
from dem_build.errors import CheckpointError
from dem_build.model.architecture import architecture

if TYPE_CHECKING:
    from dem_build.checkpoint.layout import TensorSpec
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.checkpoint.writer import Writer
    from dem_build.digest import JSON
    from dem_build.model.architecture import Architecture
    from dem_build.model.layout import Layout

__all__ = ["enlarged", "enlarged_specs", "write_new_rows"]

CHUNK_ROWS = 4096


def enlarged(
    config: dict[str, JSON], weights: Architecture, rows: int, where: str
) -> tuple[dict[str, JSON], Architecture]:
    """Return config and architecture of the same model with more rows for tokens.

    Raises:
        CheckpointError: A model whose vocabulary does not follow from `vocab_size`, or alone.
    """
    wanted = config | {"vocab_size": rows}
    larger = architecture(wanted, where)
    before, after = weights.shapes, larger.shapes
    grown = {n: s for n, s in after.items() if s != before.get(n)}
    fits = all(
        before.get(name, ())[:1] == (weights.vocabulary,) and (rows, *before[name][1:]) == shape
        for name, shape in grown.items()
    )
    if larger.vocabulary != rows or not fits or after.keys() != before.keys():
        raise CheckpointError(
            f"{weights.model} has {weights.vocabulary} rows for tokens, and no more can be added",
            where=where,
            hint="name tokens that the tokenizer has already, such as its reserved ones",
        )
    return wanted, larger


def enlarged_specs(specs: list[TensorSpec], weights: Architecture, layout: Layout) -> list[TensorSpec]:
    """Return the tensors to write, in the shapes of an enlarged architecture.

    Args:
        specs: The tensors as they were.
        weights: The enlarged architecture.
        layout: How the tensors are its own.
    """
    # Embeddings and head are one tensor in files and model, if under two names.
    own = {group.files[0]: group.own[0] for group in layout.groups if group.converter is None}
    shapes = {name: weights.shapes[of] for name, of in own.items()}
    return [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]


def write_new_rows(checkpoint: Checkpoint, specs: list[TensorSpec], writer: Writer, known: int) -> None:
    """Write the rows that the checkpoint has not, each the mean of its first `known` ones.

    The mean is taken in float64, rounded to float32 as all weights are computed in, and once more to what is stored.

    Args:
        checkpoint: The base, open.
        specs: The tensors that are written.
        writer: Takes them; all that the checkpoint has is written.
        known: Rows of tokens that the base's tokenizer has.
    """
    for spec in specs:
        old = checkpoint.tensors[spec.name]
        if spec.shape == old.shape:
            continue
        row = _mean_row(checkpoint, spec.name, known)
        stored = np.empty(row.size, FLOATS[spec.dtype])
        narrow(row, spec.dtype, stored)
        more = spec.shape[0] - old.shape[0]
        writer.write(spec.name, old.size, np.tile(stored, more))


def _mean_row(checkpoint: Checkpoint, name: str, rows: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    tensor = checkpoint.tensors[name]
    width = tensor.size // tensor.shape[0]
    total = np.zeros(width, np.float64)
    for first in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - first)
        stored = np.empty(count * width, FLOATS[tensor.dtype])
        checkpoint.read_into(tensor, first * width, stored)
        values = np.empty(count * width, np.float32)
        widen(stored, tensor.dtype, values)
        # Row after row: whole rows are added, so neither the chunks nor the CPU decide the order of the sum.
        for row in values.reshape(count, width):
            total += row
    return (total / rows).astype(np.float32)
