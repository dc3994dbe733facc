"""Examples → token ids and labels: which tokens a row has, and which of them are trained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dem_build.data.chat import Rendered, render
from dem_build.data.conversations import Conversation
from dem_build.errors import DataError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dem_build.data.chat import Pieces
    from dem_build.data.formats import AnyExample
    from dem_build.data.turns import Turn

MASKED = -100  # the label that cross-entropy leaves out, in torch and transformers


class Tokenizer(Protocol):
    """What is asked of the base's tokenizer.

    Attributes:
        eos_token: Text of the end of sequence.
        prefix_ids: What the tokenizer puts before a text by itself: BOS, or nothing.
        cues: What the chat template looks for inside of a turn's text.
        switches: What it compares a text with, or takes out of it.
        variables: The names that the chat template asks of those who render it.
        shapes: What it is known to leave out of turns of a shape; `dem_build.data.written` keeps it.
    """

    eos_token: str
    eos_id: int
    prefix_ids: tuple[int, ...]
    cues: re.Pattern[str]
    switches: re.Pattern[str]
    variables: frozenset[str]
    shapes: dict[str, frozenset[str]]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens that are not in the text."""
        ...

    def render(
        self,
        conversations: list[list[Turn]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Each conversation as text, in the base's chat template; what is given beside them is that of all."""
        ...


@dataclass(frozen=True)
class Style:
    """How examples become tokens.

    Attributes:
        chat: Whether they go through the base's chat template.
        system: The first turn, with `chat`, of an example that has none of its own.
        train_prompt: Whether the prompt is trained as well (`loss = "all"`).
        max_length: Most tokens of a row.
        truncate: Whether a longer row is cut; otherwise it is dropped.
        last_only: Whether the last answer of several alone is trained (`loss = "completion"`).
    """

    chat: bool
    system: str | None
    train_prompt: bool
    max_length: int
    truncate: bool
    last_only: bool = False


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One row.

    Attributes:
        input_ids: int32, [tokens].
        labels: int32, [tokens]; `MASKED` where not trained. The first is always masked: nothing predicts it.
        length: Tokens before it was cut.
        apart: Whether characters on two sides of an answer's beginning or end would have shared a token.
        unwritten: What the chat template does not write, as is meant: (the name that counts have, an example).
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    length: int
    apart: bool
    unwritten: frozenset[tuple[str, str]] = frozenset()

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return int(np.count_nonzero(self.labels != MASKED))


def tokenise(
    tokenizer: Tokenizer, examples: Sequence[AnyExample], style: Style
) -> list[list[Tokenised | None]]:
    """Each example's rows, with None for one over the length that is to be dropped.

    An example is one row, or one for each answer where the chat template does not keep what it wrote before.

    Raises:
        DataError: The chat template cannot render an example, or gives no exact mask.
    """
    if style.chat:
        rows = render(
            tokenizer, examples, style.system, last_only=style.last_only, all_counts=style.train_prompt
        )
        if style.train_prompt and any(len(r) > 1 for r in rows):
            raise DataError(
                "the base's chat template writes earlier turns differently once there are later ones, so not every "
                "turn can be trained once",
                hint='set loss = "assistant": then each answer is a row of its own',
            )
        prefix: tuple[int, ...] = ()  # a template writes BOS itself where the model wants it
    else:
        rows = [[_bare(e, style)] for e in examples]
        prefix = tokenizer.prefix_ids
    joined = iter(_join(tokenizer, [row.pieces for r in rows for row in r]))
    return [[_row(_prefixed(next(joined), prefix), tokenizer.eos_id, style, row) for row in r] for r in rows]


def _bare(example: AnyExample, style: Style) -> Rendered:
    if not isinstance(example, Conversation):
        return Rendered((example.prompt if example.bare is None else example.bare, example.completion))
    if example.bare is None:
        raise DataError(
            "turns are written by a chat template, and this dataset is trained without one",
            hint="give the base a chat_template, or the rows as texts",
        )
    *earlier, answer = example.bare
    return Rendered(("".join(earlier), answer) if style.last_only else example.bare)


class _Joined(NamedTuple):
    """Pieces as ids: where each but the first begins, and whether they were encoded apart."""

    ids: list[int]
    starts: tuple[int, ...]
    apart: bool


def _join(tokenizer: Tokenizer, rows: Sequence[Pieces]) -> list[_Joined]:
    """Encode rows of pieces, each piece continuing the one before.

    A model that is asked sees the tokens of what is given and continues them, so a row must begin with exactly those.
    Encoding the whole gives them first nearly always, and then the rest is the completion, just as lm-eval scores it.
    Where a token would reach over the boundary ("= " + "4" → " 4"), the pieces are encoded apart. To know, the text
    up to each boundary is encoded: for a conversation of n answers, 2n texts.
    """
    upto = [list(accumulate(pieces)) for pieces in rows]
    encoded = iter(tokenizer.encode([text for texts in upto for text in texts]))
    joined = []
    for pieces in rows:
        *heads, whole = [next(encoded) for _ in pieces]
        if all(whole[: len(head)] == head for head in heads):
            joined.append(_Joined(whole, tuple(map(len, heads)), apart=False))
        else:
            joined.append(_apart(tokenizer, heads[0], pieces[1:]))
    return joined


def _apart(tokenizer: Tokenizer, ids: list[int], pieces: Sequence[str]) -> _Joined:
    ids, starts = list(ids), []
    (line_break,) = tokenizer.encode(["\n"])
    for piece in pieces:
        starts.append(len(ids))
        # After a line break, so that SentencePiece adds no space before a text that continues another.
        (both,) = tokenizer.encode(["\n" + piece])
        after_it = both[: len(line_break)] == line_break
        ids += both[len(line_break) :] if after_it else tokenizer.encode([piece])[0]
    return _Joined(ids, tuple(starts), apart=True)


def _prefixed(joined: _Joined, prefix: tuple[int, ...]) -> _Joined:
    """Put BOS first, once: a text may spell it out."""
    if tuple(joined.ids[: len(prefix)]) == prefix:
        return joined
    starts = tuple(start + len(prefix) for start in joined.starts)
    return joined._replace(ids=[*prefix, *joined.ids], starts=starts)


def _row(joined: _Joined, eos_id: int, style: Style, row: Rendered) -> Tokenised | None:
    ids, starts, apart = joined
    # A text may spell its own EOS, which is not doubled. One at the end of what is given ends no answer: where that is
    # empty, its end is all that there is to learn of it.
    if ids[-1:] != [eos_id] or len(ids) == starts[-1]:
        ids = [*ids, eos_id]
    if len(ids) > style.max_length and not style.truncate:
        return None
    # A row that is cut keeps no EOS: its text does not end there.
    input_ids = np.asarray(ids[: style.max_length], dtype=np.int32)
    trained = np.full(len(input_ids), style.train_prompt)
    # Pieces are given and answered in turn, so the beginnings are of an answer, of what is given next, and so on.
    for answer, (start, end) in enumerate(zip(starts[::2], (*starts[1::2], len(ids)), strict=True)):
        trained[start:end] = answer not in row.muted
    trained[:1] = False  # nothing predicts it
    labels = np.where(trained, input_ids, np.int32(MASKED))
    return Tokenised(input_ids, labels, len(ids), apart, row.unwritten)
