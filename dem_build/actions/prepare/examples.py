"""Shows prepared rows as a person reads them: decoded, with what is trained apart from what is not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dem_build.data.arrays import TokenRows
from dem_build.data.tokenise import MASKED
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["Shown", "examples"]


@dataclass(frozen=True)
class Shown:
    """One row, decoded.

    Attributes:
        segments: Stretches of text in their order, each with whether its tokens are trained; special tokens and all.
        tokens: How many tokens the row has.
        trained: How many of them are trained.
    """

    segments: tuple[tuple[str, bool], ...]
    tokens: int
    trained: int


def examples(tokenizer: Path, rows: Path, most: int) -> list[Shown]:
    """Return the first rows of a split, at most `most`.

    Args:
        tokenizer: Folder of the base's tokenizer.
        rows: An output of the kind `prepare`.
        most: How many rows to show.

    Raises:
        DataError: The tokenizer cannot be loaded.
    """
    opened, loaded = TokenRows.open(rows), BaseTokenizer(tokenizer)
    return [_shown(loaded, *opened[i]) for i in range(min(most, len(opened)))]


def _shown(tokenizer: BaseTokenizer, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> Shown:
    trained = labels != MASKED
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    # Each text is the difference of two decoded prefixes: SentencePiece would lose the space a stretch begins with.
    texts = [tokenizer.decode(ids[:edge].tolist()) for edge in edges]
    segments = tuple(
        (after[len(before) :], bool(trained[start]))
        for (before, after), start in zip(pairwise(texts), edges[:-1], strict=True)
    )
    return Shown(segments, len(ids), int(trained.sum()))
