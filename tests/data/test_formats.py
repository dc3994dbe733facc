"""Which columns are what: said, or inferred where only one answer is possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from dem_build.action import SourceFile
from dem_build.data.formats import Example, resolve
from dem_build.data.rows import Row
from dem_build.errors import DataError

SOURCE = SourceFile("jsonl", "0" * 64, Path("data/a.jsonl"))


def row(**values):
    return Row(SOURCE, 7, values, 0)


@pytest.mark.parametrize(
    ("columns", "available", "name"),
    [
        (None, ["text"], "text"),
        (None, ["prompt", "completion", "id"], "prompt-completion"),
        ({"text": "body"}, ["body", "title"], "text"),
        ({"prompt": "q", "completion": "a"}, ["q", "a"], "prompt-completion"),
        ({"prompt": "q"}, ["q", "completion"], "prompt-completion"),
        ({"prompt": "q"}, ["q", "completion", "text"], "prompt-completion"),
    ],
)
def test_the_format_is_inferred_where_one_fits(columns, available, name):
    assert resolve(None, columns, available, "a.jsonl").format.name == name


def test_several_formats_that_fit_are_refused():
    with pytest.raises(DataError, match=r'more than one format fits.*format = "text" or "prompt-completion"'):
        resolve(None, None, ["prompt", "completion", "text"], "a.jsonl")


def test_a_format_that_is_said_settles_it():
    assert resolve("text", None, ["prompt", "completion", "text"], "a.jsonl").columns == {"text": "text"}


def test_columns_that_fit_no_format_are_listed():
    with pytest.raises(DataError, match=r"a\.jsonl: no format fits the columns `question`, `answer`"):
        resolve(None, None, ["question", "answer"], "a.jsonl")


@pytest.mark.parametrize(
    ("name", "columns", "what"),
    [
        (
            "chatml",
            None,
            "format `chatml` is not supported.*text, prompt-completion, messages, alpaca, sharegpt",
        ),
        ("text", {"prompt": "q"}, "`prompt` is no role of format `text`.*text"),
        (
            "prompt-completion",
            {"prompt": "q"},
            "no column `q` for the prompt; there are `prompt`, `completion`",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(name, columns, what):
    with pytest.raises(DataError, match=what):
        resolve(name, columns, ["prompt", "completion"], "a.jsonl")


def test_a_row_becomes_an_example_by_its_columns():
    layout = resolve(None, {"prompt": "q", "completion": "a"}, ["q", "a"], "a.jsonl")
    assert layout.example(row(q="2+2?", a=" 4", note=None)) == Example("2+2?", " 4")


def test_text_is_a_completion_of_nothing():
    assert resolve("text", None, ["text"], "a.jsonl").example(row(text="so")) == Example("", "so")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"prompt": "a"}, "no column `completion` for the completion; there are `prompt`"),
        ({"prompt": "a", "completion": None}, r"column `completion` \(completion\) is null"),
        ({"prompt": 3, "completion": "b"}, r"column `prompt` \(prompt\) is of type int"),
        ({"prompt": ["a"], "completion": "b"}, "turn 1 of the prompt is no object"),
        ({"prompt": "a\ud800", "completion": "b"}, "half of a surrogate pair at character 2"),
    ],
)
def test_a_row_without_text_is_named_by_its_line(values, what):
    layout = resolve("prompt-completion", None, ["prompt", "completion"], "a.jsonl")
    with pytest.raises(DataError, match=what) as caught:
        layout.example(row(**values))
    assert caught.value.where == "data/a.jsonl:7"
    assert caught.value.hint
