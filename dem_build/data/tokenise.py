"""Examples → token ids and labels: which tokens a row has, and which of them are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from dem_build.data.chat import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dem_build.data.formats import Example

__all__ = ["MASKED", "Style", "Tokenised", "Tokenizer", "tokenise"]

MASKED = -100  # the label that cross-entropy leaves out, in torch and transformers


class Tokenizer(Protocol):
    """What is asked of the base's tokenizer.

    Attributes:
        eos_token: Text of the end of sequence.
        eos_id: Its id.
        prefix_ids: What the tokenizer puts before a text by itself: BOS, or nothing.
    """

    eos_token: str
    eos_id: int
    prefix_ids: tuple[int, ...]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens that are not in the text."""
        ...

    def render(self, conversations: list[list[dict[str, str]]], *, add_generation_prompt: bool) -> list[str]:
        """Return each conversation as text, in the base's chat template."""
        ...


@dataclass(frozen=True)
class Style:
    """How examples become tokens.

    Attributes:
        chat: Whether they go through the base's chat template.
        system: The first turn, with `chat`.
        train_prompt: Whether the prompt is trained as well (`loss = "all"`).
        max_length: Most tokens of a row.
        truncate: Whether a longer row is cut; otherwise it is dropped.
    """

    chat: bool
    system: str | None
    train_prompt: bool
    max_length: int
    truncate: bool


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One row.

    Attributes:
        input_ids: int32, [tokens].
        labels: int32, [tokens]; `MASKED` where not trained. The first is always masked: nothing predicts it.
        length: Tokens before it was cut.
        apart: Whether the prompt's last and the completion's first characters would have shared a token.
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    length: int
    apart: bool

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return int(np.count_nonzero(self.labels != MASKED))


def tokenise(tokenizer: Tokenizer, examples: Sequence[Example], style: Style) -> list[Tokenised | None]:
    """Return each example's tokens, or None for one over the length that is to be dropped.

    Raises:
        DataError: The chat template cannot render an example, or gives no exact mask.
    """
    if style.chat:
        # No prefix: a template writes BOS itself where the model wants it.
        joined = _join(tokenizer, render(tokenizer, examples, style.system))
    else:
        pairs = [(e.prompt, e.completion) for e in examples]
        joined = [_prefixed(j, tokenizer.prefix_ids) for j in _join(tokenizer, pairs)]
    return [_row(j, tokenizer.eos_id, style) for j in joined]


class _Joined(NamedTuple):
    """A prompt and its completion as ids: where the completion's begin, and whether the two were encoded apart."""

    ids: list[int]
    start: int
    apart: bool


def _join(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[_Joined]:
    """Encode pairs of a text and what continues it.

    A model that is asked sees the prompt's own tokens and continues them, so a row must begin with exactly those.
    Encoding the whole gives them first nearly always, and then the rest is the completion, just as lm-eval scores it.
    Where a token would reach over the boundary ("= " + "4" → " 4"), the two are encoded apart.
    """
    heads = tokenizer.encode([before for before, _ in pairs])
    wholes = tokenizer.encode([before + after for before, after in pairs])
    return [
        _Joined(whole, len(head), apart=False)
        if whole[: len(head)] == head
        else _Joined(head + _continuation(tokenizer, after), len(head), apart=True)
        for (_, after), head, whole in zip(pairs, heads, wholes, strict=True)
    ]


def _continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text that continues another: after a line break, so that SentencePiece adds no space before it."""
    (line_break,), (both,) = tokenizer.encode(["\n"]), tokenizer.encode(["\n" + text])
    if both[: len(line_break)] == line_break:
        return both[len(line_break) :]
    return tokenizer.encode([text])[0]


def _prefixed(joined: _Joined, prefix: tuple[int, ...]) -> _Joined:
    """Put BOS first, once: a text may spell it out."""
    if tuple(joined.ids[: len(prefix)]) == prefix:
        return joined
    return joined._replace(ids=[*prefix, *joined.ids], start=joined.start + len(prefix))


def _row(joined: _Joined, eos_id: int, style: Style) -> Tokenised | None:
    ids, start, apart = joined
    if ids[-1:] != [eos_id] or len(ids) == start:
        ids = [*ids, eos_id]
    if len(ids) > style.max_length and not style.truncate:
        return None
    # A row that is cut keeps no EOS: its text does not end there.
    input_ids = np.asarray(ids[: style.max_length], dtype=np.int32)
    labels = input_ids.copy()
    labels[: 1 if style.train_prompt else max(1, start)] = MASKED
    return Tokenised(input_ids, labels, len(ids), apart)
