"""What composing by layers begins with: base and vectors, opened and checked, a model without weights, and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.match.frames import empty_model
from dem_build.actions.match.sums import ModelSums
from dem_build.checkpoint.delta import delta_shapes, open_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import TokenRows
from dem_build.json_text import parse_json
from dem_build.model.context_length import refuse_longer
from dem_build.model.weight_layout import WeightLayout
from dem_build.wording import vector_name

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from dem_build.actions.match.rows import TokenRow
    from dem_build.actions.match.sums import Vectors
    from dem_build.step import Context, Inputs


def open_sums(
    inputs: Inputs, vectors: Vectors, dtype: str, context: Context
) -> tuple[PreTrainedModel, ModelSums]:
    """The model of the base's config without its weights, and what these, in `dtype`, are made of.

    Raises:
        CheckpointError: A vector of another base, or a model that transformers does not know.
    """
    base, digest = open_checkpoint(inputs.paths["base/weights"]), inputs.digests["base/weights"]
    deltas = [open_delta(v.path, base, digest, vector_name(v.digest)) for v in vectors.files]
    config = parse_json(inputs.paths["base/config"].read_text(encoding="utf-8"))
    model = empty_model(config, context.machine.attn_implementation)
    return model, ModelSums(base, vectors, deltas, dtype, WeightLayout(model, delta_shapes(base)))


def sample_rows(sample: Path, most: int, config: Path) -> list[TokenRow]:
    """The first rows of a sample, without empty ones.

    Raises:
        DataError: A row has more tokens than the model takes.
    """
    rows = TokenRows.open(sample)
    refuse_longer(rows, config)
    return [rows[i] for i in range(min(most, len(rows))) if len(rows[i][0])]
