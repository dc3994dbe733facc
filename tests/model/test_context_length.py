"""Rows that are longer than the model's context are refused before a model is loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dem_build.actions.loss import run as loss
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.errors import DataError
from dem_build.machine import Machine
from dem_build.model.context_length import refuse_longer
from dem_build.step import Context, Inputs


def write(folder, lengths, **config):
    """Write rows of `lengths` and a config; return both paths."""
    with RowsWriter(folder / "spool") as writer:
        for n in lengths:
            ids = np.arange(n, dtype=np.int32)
            writer.append(ids, ids, bytes(32))
        writer.save(folder / "rows")
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "rows", folder / "config.json"


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions", "n_ctx"])
def test_rows_over_the_models_length_are_counted_and_refused(tmp_path, name):
    rows, config = write(tmp_path, [9, 4, 12, 8], **{name: 8})
    with pytest.raises(
        DataError, match="takes 8 tokens at most, and 2 of 4 rows have more, up to 12"
    ) as caught:
        refuse_longer(TokenRows.open(rows), config)
    assert "max_length = 8" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("lengths", "config"),
    [([8, 3], {"n_positions": 8}), ([9], {}), ([9], {"n_ctx": None}), ([], {"n_positions": 8})],
    ids=["as long", "no limit", "no number", "no rows"],
)
def test_other_rows_are_taken(tmp_path, lengths, config):
    rows, path = write(tmp_path, lengths, **config)
    refuse_longer(TokenRows.open(rows), path)


def test_a_loss_is_refused_before_weights_are_read(tmp_path):
    rows, config = write(tmp_path, [9], n_positions=8)
    paths = {"model/weights": tmp_path / "nowhere", "model/config": config, "data/rows": rows}
    context = Context(tmp_path, tmp_path / "out", Machine())
    with pytest.raises(DataError, match="takes 8 tokens"):
        loss.run(Inputs(paths), {"dtype": "float32"}, context)
