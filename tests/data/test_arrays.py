"""Tokenised rows on disk: what was written is read, row by row, and equal rows are equal bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.errors import DataError

ROWS = [[5, 6, 7], [8], [9, 10, 11, 12]]


def write(folder, rows, name="rows"):
    with RowsWriter(folder / "spool") as writer:
        for number, row in enumerate(rows):
            ids = np.array(row, dtype=np.int32)
            labels = np.where(np.arange(len(ids)) == 0, -100, ids).astype(np.int32)
            writer.append(ids, labels, bytes([number]) * 32)
        writer.save(folder / name)
    return writer


def test_rows_come_back_as_they_were_written(tmp_path):
    write(tmp_path, ROWS)
    rows = TokenRows.open(tmp_path / "rows")
    assert len(rows) == 3
    assert [rows[i][0].tolist() for i in range(3)] == ROWS
    assert [rows[i][1].tolist() for i in range(3)] == [[-100, 6, 7], [-100], [-100, 10, 11, 12]]
    assert rows[-1][0].tolist() == ROWS[-1]
    assert rows.lengths.tolist() == [3, 1, 4]
    assert rows.tokens == 8
    assert rows.prompts.tolist() == [[0] * 16, [1] * 16, [2] * 16]


def test_the_file_is_what_its_description_says(tmp_path):
    write(tmp_path, ROWS)
    with safe_open(tmp_path / "rows", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
    found = {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()}
    assert found == {
        "input_ids": ("int32", (8,)),
        "labels": ("int32", (8,)),
        "offsets": ("int64", (4,)),
        "prompts": ("uint8", (3, 16)),
    }


def test_iteration_ends_after_the_last_row(tmp_path):
    write(tmp_path, ROWS)
    assert [ids.tolist() for ids, _ in TokenRows.open(tmp_path / "rows")] == ROWS


@pytest.mark.parametrize("index", [3, -4])
def test_a_row_that_is_not_there_is_an_index_error(tmp_path, index):
    write(tmp_path, ROWS)
    with pytest.raises(IndexError):
        TokenRows.open(tmp_path / "rows")[index]


def test_no_rows_are_a_file_too(tmp_path):
    write(tmp_path, [])
    rows = TokenRows.open(tmp_path / "rows")
    assert len(rows) == rows.tokens == 0
    assert rows.lengths.tolist() == []
    assert rows.prompts.shape == (0, 16)
    assert list(rows) == []


def test_equal_rows_give_equal_bytes(tmp_path):
    write(tmp_path, ROWS, "one")
    write(tmp_path, ROWS, "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_copy_for_another_process_reads_the_same_rows(tmp_path):
    write(tmp_path, ROWS)
    copy = pickle.loads(pickle.dumps(TokenRows.open(tmp_path / "rows")))
    assert copy[2][0].tolist() == ROWS[2]


def test_the_writer_counts_tokens_and_leaves_no_spool(tmp_path):
    writer = write(tmp_path, ROWS)
    assert (len(writer), writer.tokens, writer.trained) == (3, 8, 5)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_writer_that_is_abandoned_leaves_no_spool(tmp_path):
    with RowsWriter(tmp_path / "spool") as writer:
        writer.append(np.ones(3, np.int32), np.ones(3, np.int32), bytes(32))
    assert list((tmp_path / "spool").iterdir()) == []


def spoiled(folder, **parts):
    """The file of `ROWS` with some of its tensors replaced, or left out where None is given."""
    write(folder, ROWS)
    tensors = load_file(folder / "rows") | parts
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "odd")
    return folder / "odd"


@pytest.mark.parametrize(
    "parts",
    [
        {"offsets": None},
        {"prompts": None},
        {"labels": None},
        {"labels": np.zeros(3, np.int32)},
        {"input_ids": np.zeros(8, np.float32)},
        {"offsets": np.zeros(0, np.int64)},
        {"offsets": np.array([0, 3, 2, 8])},
        {"offsets": np.array([0, 3, 4, 9])},
        {"offsets": np.array([-1, 3, 4, 8])},
        {"prompts": np.zeros((2, 16), np.uint8)},
    ],
    ids=str,
)
def test_rows_whose_parts_contradict_each_other_are_refused(tmp_path, parts):
    with pytest.raises(DataError, match="are no token rows"):
        TokenRows.open(spoiled(tmp_path, **parts))


@pytest.mark.parametrize("data", [b"", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_holds_no_rows(tmp_path, data):
    (tmp_path / "rows").write_bytes(data)
    with pytest.raises(DataError, match="are no token rows"):
        TokenRows.open(tmp_path / "rows")
