"""What datasets share with each other, by their prompts."""

from __future__ import annotations

import numpy as np
import pytest

from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.overlap import shared_prompts
from dem_build.data.splits import Shared, prompt_digest


@pytest.fixture
def rows(tmp_path):
    """Writes rows with the given prompts."""
    count = iter(range(100))

    def rows(*prompts):
        path = tmp_path / f"rows-{next(count)}"
        with RowsWriter(tmp_path / f"spool-{path.name}") as writer:
            for prompt in prompts:
                ids = np.array([1, 2], dtype=np.int32)
                writer.append(ids, ids, prompt_digest(prompt))
            writer.save(path)
        return TokenRows.open(path)

    return rows


def test_prompts_in_two_train_splits_are_counted_once(rows):
    datasets = {
        "math": {"train": rows("a", "a", "b", "c", "d")},
        "chat": {"train": rows("A ", "b", "x", "x")},
        "code": {"train": rows("b", "y")},
    }
    assert shared_prompts(datasets) == [
        Shared("chat", "train", "code", "train", 1),
        Shared("chat", "train", "math", "train", 2),
        Shared("code", "train", "math", "train", 1),
    ]


def test_held_out_rows_that_another_dataset_is_trained_on_are_counted(rows):
    datasets = {
        "math": {"train": rows("a", "b"), "validation": rows(), "test": rows("x", "x", "z", "a")},
        "chat": {"train": rows("x", "y"), "validation": rows("b"), "test": rows("q")},
        "probe": {"train": rows(), "validation": rows(), "test": rows("a", "y", "n")},
    }
    assert shared_prompts(datasets) == [
        Shared("chat", "validation", "math", "train", 1),
        Shared("math", "test", "chat", "train", 2),
        Shared("math", "test", "probe", "test", 1),
        Shared("probe", "test", "chat", "train", 1),
        Shared("probe", "test", "math", "test", 1),
        Shared("probe", "test", "math", "train", 1),
    ]


def test_rows_of_test_that_are_in_validation_are_counted_the_datasets_own_among_them(rows):
    datasets = {
        "math": {"train": rows("a"), "validation": rows("v", "w"), "test": rows("v", "v", "t")},
        "chat": {"train": rows("b"), "validation": rows("t"), "test": rows("w", "c")},
        "probe": {"train": rows(), "validation": rows(), "test": rows("t", "x")},
    }
    assert [s for s in shared_prompts(datasets) if s.other_split == "validation"] == [
        Shared("chat", "test", "math", "validation", 1),
        Shared("math", "test", "chat", "validation", 1),
        Shared("math", "test", "math", "validation", 2),
        Shared("probe", "test", "chat", "validation", 1),
    ]


def test_datasets_that_share_nothing_share_nothing(rows):
    assert shared_prompts({}) == []
    assert shared_prompts({"a": {"train": rows("a")}, "b": {"train": rows("b"), "test": rows("c")}}) == []
