"""Held-out rows that nearly repeat what is trained on: found where the words are nearly the same, and only there."""

from __future__ import annotations

import random

import pytest
from data_samples import Preparer, source, write_rows

from dem_build.data import duplicates
from dem_build.data.duplicates import NearDuplicates, shingles

WORDS = [f"word{i}" for i in range(2000)]


def text(seed, count=60):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def edited(words):
    """A word replaced in the middle, other case and punctuation."""
    parts = words.split()
    parts[30] = "another"
    return ", ".join(parts).title() + "!"


@pytest.fixture
def count(tmp_path):
    def count(train, test, validation=()):
        with NearDuplicates(tmp_path / "spool" / "words") as found:
            for side, rows in (("test", test), ("train", train), ("validation", validation)):
                for row in rows:
                    found.add(side, shingles([row]))
            counts = found.count()
        assert not list((tmp_path / "spool").iterdir())
        return counts

    return count


def test_a_row_with_a_word_replaced_is_near_and_others_are_not(count):
    train = [text(i) for i in range(50)]
    assert count(train, [edited(train[7]), text(99)], [edited(train[8])]) == {"validation": 1, "test": 1}


def test_half_a_row_in_common_is_not_near(count):
    train = [text(i) for i in range(50)]
    assert count(train, [train[7][: len(train[7]) // 2] + " " + text(99, 30)])["test"] == 0


def test_a_row_inside_a_longer_one_is_near(count):
    assert count([f"{text(1)} {text(2)} {text(3)}"], [text(2)])["test"] == 1


def test_an_instruction_that_all_rows_share_does_not_count(count):
    train, test = ([f"{text(0)} {text(i)}" for i in numbers] for numbers in (range(1, 50), range(50, 60)))
    assert count(train, test)["test"] == 0
    assert count(train, [*test, edited(train[3])])["test"] == 1


def test_a_short_row_is_near_where_all_of_it_is_the_same(count):
    assert count(["2 plus 2 = 4", "3 plus 3 = 6"], ["2 PLUS 2: 4", "2 plus 3 = 5"])["test"] == 1


def test_characters_are_words_where_no_spaces_part_them(count):
    train = [
        "".join(random.Random(i).choices([chr(c) for c in range(0x4E00, 0x5E00)], k=60)) for i in range(9)
    ]
    assert count(train, [train[3][:55] + "東京東京東"])["test"] == 1
    assert count(train, [train[3][:25] + train[4][:25][::-1]])["test"] == 0


def test_rows_without_words_are_near_nothing(count):
    assert shingles(["…", ""]).size == 0
    assert count(["…"], ["…", "!"])["test"] == 0


def test_nothing_is_held_out(count):
    assert count([text(1)], []) == {"validation": 0, "test": 0}


def test_rows_beyond_the_bound_are_not_looked_at(count, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_ROWS", 2)
    train = [text(i) for i in range(5)]
    assert count(train, train)["test"] == 2


def test_hashes_are_the_same_in_every_process():
    assert shingles(["a b c d e f g h i"]).tolist() == [17928396266002292209, 2988350362776609172]


def test_prepare_says_how_many_there_are_and_changes_no_byte(tmp_path):
    prepare = Preparer(tmp_path)
    train = [{"text": text(i)} for i in range(30)]
    near = [{"text": edited(row["text"])} for row in train[:2]]
    path = write_rows(tmp_path / "train.jsonl", train)
    far, close = (
        source(write_rows(tmp_path / f"{name}.jsonl", rows), "test:jsonl")
        for name, rows in (("far", [{"text": text(99)}]), ("close", [*near, {"text": text(99)}]))
    )
    params = {"max_length": 1000}
    quiet, told = prepare(path, far, **params), prepare(path, close, **params)
    assert quiet.warnings == []
    assert told.warnings == ["2 rows of test nearly repeat rows of train"]
    assert told.provenance["near_duplicates"] == {"validation": 0, "test": 2}
    assert told.bytes() == quiet.bytes() == prepare(path, **params).bytes()
