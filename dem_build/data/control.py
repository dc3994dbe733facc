"""Finds rows whose own text spells a control token of the base, such as `<|im_end|>`: it is encoded as that token.

Such a row can end a turn or begin one that is nobody's. That is what every tokenizer does with the text, here and
wherever the model is asked, so the row is used as it is; but nobody should find out by the model's answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dem_build.data.formats import AnyExample
    from dem_build.data.rows import Row

__all__ = ["ControlTokens"]


class ControlTokens:
    """Counts the rows that spell a control token, and knows the first of them.

    Args:
        texts: The control tokens as text.
        start: What a row may begin with all the same: BOS, which is not doubled.
        end: What a row may end with all the same: EOS, which is not doubled.

    Attributes:
        rows: How many rows spell one.
        first: Where the first such row stands, and the token that it spells; None while there is none.
    """

    def __init__(self, texts: Collection[str], start: str = "", end: str = "") -> None:
        # The longest first, as a tokenizer matches them. Without any, a pattern that nothing matches.
        ordered = sorted(texts, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._start, self._end = start, end
        self.rows = 0
        self.first: tuple[str, str] | None = None

    def look(self, rows: Iterable[tuple[Row, AnyExample]]) -> None:
        """Look through more rows."""
        for row, example in rows:
            texts = (t.removeprefix(self._start).removesuffix(self._end) for t in example.texts)
            if found := next((f for f in map(self._pattern.search, texts) if f), None):
                self.rows += 1
                self.first = self.first or (row.where, found[0])
