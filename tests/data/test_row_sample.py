"""The sample of a train split: which rows it has follows from the rows alone, and few of them move it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from data_samples import Preparer, write_rows

from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.sample import MOST, RowSample

ROWS = [{"prompt": f"question {i}?", "completion": f" answer {i}"} for i in range(400)]


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    return Preparer(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def written(prepare):
    """Writes rows, and prepares them with a quarter held out on each side."""
    count = iter(range(100))

    def prepared(rows):
        path = write_rows(prepare.folder / f"{next(count)}.jsonl", rows)
        return prepare(path, validation=0.15, test=0.15)

    return prepared


@pytest.fixture(scope="module")
def whole(written):
    return written(ROWS)


def place(row):
    return hashlib.sha256(b"".join(np.array(part, "<i4").tobytes() for part in row)).digest()


def test_a_sample_is_the_rows_of_train_whose_hashes_are_lowest(whole):
    train = whole.tokens("train")
    assert len(train) > MOST
    assert whole.tokens("sample") == sorted(train, key=place)[:MOST]
    assert whole.provenance["sample"]["lengths"] == [len(ids) for ids, _ in whole.tokens("sample")]


def test_nothing_that_is_held_out_is_in_a_sample(whole):
    held = {tuple(ids) for split in ("validation", "test") for ids, _ in whole.tokens(split)}
    assert held
    assert not held & {tuple(ids) for ids, _ in whole.tokens("sample")}


def test_rows_in_another_order_and_twice_give_the_same_sample(whole, written):
    assert written([*ROWS[::-1], *ROWS[:30]]).bytes("sample") == whole.bytes("sample")


def test_a_row_more_takes_the_place_of_one_at_most(whole, written):
    before = whole.tokens("sample")
    for number in range(3):
        after = written([*ROWS, {"prompt": f"one more, {number}", "completion": " yes"}]).tokens("sample")
        left = [row for row in before if row in after]
        assert len(left) >= len(before) - 1
        assert [row for row in after if row in before] == left


def test_a_few_rows_are_all_in_the_sample(written):
    few = written(ROWS[:20])
    assert sorted(few.tokens("sample")) == sorted(few.tokens("train"))


def test_which_prompt_a_row_has_follows_from_no_order(tmp_path):
    ids = np.arange(3, dtype=np.int32)
    prompts = []
    for number, order in enumerate(([b"\1" * 32, b"\2" * 32], [b"\2" * 32, b"\1" * 32])):
        sample = RowSample()
        for prompt in order:
            sample.look(ids, ids, prompt)
        with RowsWriter(tmp_path / "spool") as writer:
            sample.write(writer)
            writer.save(tmp_path / str(number))
        prompts.append(TokenRows.open(tmp_path / str(number)).prompts.tolist())
    assert prompts == [[[1] * 16], [[1] * 16]]


def test_no_more_rows_are_held_than_twice_the_sample():
    sample = RowSample(most=4)
    for number in range(100):
        row = np.array([number], dtype=np.int32)
        sample.look(row, row, bytes(32))
        assert len(sample._kept) <= 9
