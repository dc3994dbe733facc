"""Prompts as a model is asked: of held-out rows up to their first answer, or texts in the base's chat template.

What is shown to people is the question alone: the template's words around it are taken off where they can be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from dem_build.data.tokenise import MASKED
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.data.arrays import TokenRows
    from dem_build.data.conversations import Turn
    from dem_build.model.tokenizer import BaseTokenizer

__all__ = ["Prompt", "continued", "of_rows", "of_texts"]

OPENING = 32  # tokens that a text without a prompt is begun with, at most
MARK = "dem asks"  # stands for a question in a rendered template


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        ids: Tokens that the model continues.
        asked: The question as people read it.
        reference: What the data answer; None of a text that a recipe gives.
    """

    ids: tuple[int, ...]
    asked: str
    reference: str | None = None


def of_rows(tokenizer: BaseTokenizer, rows: TokenRows, most: int) -> list[Prompt]:
    """Return the prompts of the rows with the smallest prompt hashes, no prompt twice: the same ones every time.

    Of a conversation, that is all up to its first answer that counts; of a text all of which counts, its first
    question, or where it has none, its beginning.
    """
    first: dict[bytes, int] = {}
    for row, digest in enumerate(rows.prompts):
        first.setdefault(digest.tobytes(), row)
    frame = _frame(tokenizer)
    found = (_of_row(tokenizer, *rows[first[digest]], frame) for digest in sorted(first))
    return list(islice((prompt for prompt in found if prompt is not None), most))


def of_texts(tokenizer: BaseTokenizer, texts: Sequence[str]) -> list[Prompt]:
    """Return texts as questions in the base's chat template, or as they are where it has none.

    Raises:
        DataError: The template refuses a question without a system prompt.
    """
    if not tokenizer.has_chat_template:
        encoded = tokenizer.encode(texts)
        return [Prompt((*tokenizer.prefix_ids, *ids), text) for ids, text in zip(encoded, texts, strict=True)]
    rendered = tokenizer.render([[_user(text)] for text in texts], add_generation_prompt=True)
    encoded = tokenizer.encode(rendered)  # the template writes BOS itself where the model wants it
    return [Prompt(tuple(ids), text) for ids, text in zip(encoded, texts, strict=True)]


def continued(tokenizer: BaseTokenizer, ids: Sequence[int], more: Sequence[int]) -> str:
    """Return the text that `more` adds to `ids`: alone, SentencePiece would lose the space that it begins with."""
    before, both = tokenizer.decode(ids), tokenizer.decode([*ids, *more])
    return both[len(before) :] if both.startswith(before) else tokenizer.decode(more)


class _Frame(NamedTuple):
    """What a chat template writes before a question, whatever comes before it, and after it."""

    opening: str
    closing: str


def _frame(tokenizer: BaseTokenizer) -> _Frame | None:
    """Return the template's words around a question; None where there are none, or where they cannot be told."""
    if not tokenizer.has_chat_template:
        return None
    question = [_user(MARK)]
    later = [_user("a"), _turn("assistant", "b"), *question]
    try:
        first, last = tokenizer.render([question, later], add_generation_prompt=True)
    except DataError:
        return None
    head, _, closing = first.partition(MARK)
    return _Frame(_common_end(head, last.rpartition(MARK)[0]), closing)


def _common_end(one: str, other: str) -> str:
    both = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other), strict=False))
    return "".join(letter for letter, _ in both)[::-1]


def _of_row(
    tokenizer: BaseTokenizer, ids: NDArray[np.int32], labels: NDArray[np.int32], frame: _Frame | None
) -> Prompt | None:
    """Return the prompt of a row; None where nothing in it counts."""
    counts = labels != MASKED
    if not counts[1:].any():
        return None
    tokens: list[int] = ids.tolist()
    start = int(counts.argmax())
    if start <= max(1, len(tokenizer.prefix_ids)):
        start = _beginning(tokenizer, tokens, frame)
        counts[start:] = True
    answer = takewhile(lambda i: counts[i] and tokens[i] != tokenizer.eos_id, range(start, len(tokens)))
    given = tuple(tokens[:start])
    reference = continued(tokenizer, given, [tokens[i] for i in answer])
    return Prompt(given, _question(tokenizer, given, frame), reference)


def _beginning(tokenizer: BaseTokenizer, tokens: list[int], frame: _Frame | None) -> int:
    """Return how many tokens a row begins with, all of which counts: up to its first question's end, if it has one."""
    if frame is not None and frame.closing:
        closing = tokenizer.encode([frame.closing])[0]
        for end in range(len(closing), len(tokens)):
            if tokens[end - len(closing) : end] == closing:
                return end
    return max(1, min(OPENING, len(tokens) // 2))


def _question(tokenizer: BaseTokenizer, ids: tuple[int, ...], frame: _Frame | None) -> str:
    prefix = tokenizer.prefix_ids
    text = tokenizer.decode(ids[len(prefix) :] if ids[: len(prefix)] == prefix else ids)
    if frame is None or not frame.opening or not text.endswith(frame.closing):
        return text
    _, opening, question = text.removesuffix(frame.closing).rpartition(frame.opening)
    return question if opening else text


def _user(text: str) -> Turn:
    return _turn("user", text)


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
