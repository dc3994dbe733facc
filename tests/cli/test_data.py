"""What `dem data` says of a dataset beside its rows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dem_build.cli import data
from dem_build.store import Record


def told(**provenance):
    console = Console(file=io.StringIO(), width=200)
    data._counts(console, Record("0" * 64, "prepare", {}, {}, provenance))
    return console.file.getvalue().splitlines()[:-1]


def test_the_counts_of_a_dataset_are_those_of_its_rows_and_of_each_split():
    rows, train = {"used": 19, "empty": 0, "over_max_length": 1}, {"rows": 19, "trained_tokens": 190}
    assert told(rows=rows, splits={"train": train}) == [
        "rows: used 19, over max length 1",
        "train: 19 rows, 190 trained tokens",
    ]


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"rows": 3, "splits": ["train"]},
        {"rows": {"used": "many"}, "splits": None},
        {"rows": [], "splits": {}},
    ],
)
def test_counts_of_another_shape_are_not_said(provenance):
    assert told(**provenance) == []


def test_a_split_without_counts_is_named_and_no_more():
    assert told(splits={"train": {"rows": [1], "tokens": None}, "te\x1bst": 3}) == ["train: ", "te\\x1bst: "]


def test_what_is_not_read_of_a_dataset_is_named():
    assert told(unread={"columns": ["id", "a\x1bb"], "keys": ["time"]}) == [
        "not read: the columns `id`, `a\\x1bb`; the key `time` of turns"
    ]
    assert (
        told(unread={"columns": [], "keys": []}) == told(unread={"columns": "id"}) == told(unread=[3]) == []
    )
