"""Tokenizers with small chat templates, and rows of them as text with what is trained in ⟦ ⟧."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data_samples import make_tokenizer

from dem_build.data.conversations import Beside, from_messages
from dem_build.data.tokenise import MASKED, Style, tokenise
from dem_build.model.tokenizer import BaseTokenizer


def with_template(template, **more):
    with tempfile.TemporaryDirectory() as folder:
        return BaseTokenizer(make_tokenizer(Path(folder), chat_template=template, **more))


def style(**changed):
    given = {"chat": True, "system": None, "train_prompt": False, "max_length": 2000, "truncate": False}
    return Style(**(given | changed))


def beside(**given):
    return Beside("a.jsonl:1", **given)


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def shown(tokenizer, row):
    """The row's text, what is trained in ⟦ ⟧."""
    text, on = "", False
    for token, label in zip(row.input_ids.tolist(), row.labels.tolist(), strict=True):
        if on != (label != MASKED):
            on = not on
            text += "⟦" if on else "⟧"
        text += tokenizer.decode([token])
    return text + ("⟧" if on else "")


def cut_up(tokenizer, example, **changed):
    [rows] = tokenise(tokenizer, [example], style(**changed))
    return rows


def rows_of(tokenizer, turns, *, more=None, **changed):
    """Turns as rows of text."""
    found = cut_up(tokenizer, from_messages(turns, beside(**(more or {}))), **changed)
    return [shown(tokenizer, row) for row in found]


def unwritten(tokenizer, turns, *, more=None, **changed):
    """What the template did not write of turns, as is meant."""
    found = cut_up(tokenizer, from_messages(turns, beside(**(more or {}))), **changed)
    return {pair for row in found for pair in row.unwritten}
