"""Rows of datasets, what each of their tokens counts, and the pieces in which linear modules take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.actions.match.normal import CHUNK
from dem_build.data.tokenise import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

MOST = 8.0
"""How many times as much as the others tokens weigh at most whose next one counts, and others as these."""


@dataclass(frozen=True, eq=False)
class WeighedRow:
    """One row of a dataset.

    Attributes:
        term: Which vector is its dataset's.
        ids: [1, tokens].
        weights: a_j s_t, float32 [tokens, 1].
    """

    term: int
    ids: torch.Tensor
    weights: torch.Tensor

    @property
    def tokens(self) -> int:
        """How many."""
        return self.ids.shape[1]


@dataclass(frozen=True, eq=False)
class Piece:
    """At most CHUNK tokens of one dataset, one row after another."""

    parts: Sequence[tuple[WeighedRow, slice]]

    @property
    def term(self) -> int:
        """Which vector is the dataset's."""
        return self.parts[0][0].term

    @property
    def weights(self) -> torch.Tensor:
        """a_j s_t, float32 [tokens, 1]."""
        return torch.cat([row.weights[part] for row, part in self.parts])


def pieces_of(rows: Iterable[WeighedRow]) -> list[Piece]:
    """All tokens of rows of one dataset, in their order; a row is cut only where it is longer than a piece."""
    pieces: list[list[tuple[WeighedRow, slice]]] = []
    room = 0
    for row in rows:
        for start in range(0, row.tokens, CHUNK):
            part = slice(start, min(start + CHUNK, row.tokens))
            size = part.stop - start
            if not pieces or size > room:
                pieces.append([])
                room = CHUNK
            pieces[-1].append((row, part))
            room -= size
    return [Piece(parts) for parts in pieces]


def weighed(rows: Sequence[TokenRow], importance: float, term: int, device: torch.device) -> list[WeighedRow]:
    """Rows of one dataset on a device; arguments as of `token_weights`, and which vector is the dataset's."""
    return [
        WeighedRow(term, torch.from_numpy(ids.astype("int64"))[None].to(device), weights.to(device)[:, None])
        for (ids, _), weights in zip(rows, token_weights(rows, importance), strict=True)
    ]


def token_weights(rows: Sequence[TokenRow], importance: float) -> list[torch.Tensor]:
    """a_j s_t of each token: as much on those whose next token counts as on the others, where there are enough.

    What n rows begin with is one and the same observation in all of them, as no layer looks ahead: each of the n has an
    n-th of its weight. Else a system prompt of 24 tokens, in 32 rows, would count as much as 768 tokens that differ.
    A token of either sort weighs at most `MOST` times as much as one of the other: of labels of three tokens, or of
    plain text, where a row's last token alone does not count, half of the weight would lie on a hundred tokens, which
    are fitted at the cost of all else.

    Args:
        rows: Input ids and labels of each row of one dataset.
        importance: a_j, what all of them sum to.

    Returns:
        float32 [tokens] a row.
    """
    sizes = [len(ids) for ids, _ in rows]
    once = 1 / _sharing([ids for ids, _ in rows])
    counting = np.concatenate([np.append(labels[1:] != MASKED, False) for _, labels in rows])
    count, others = once[counting].sum(), once[~counting].sum()
    factor = min(max(others / count, 1 / MOST), MOST) if count and others else 1.0
    weights = once * np.where(counting, factor, 1.0)
    weights *= importance / weights.sum()
    return list(torch.split(torch.from_numpy(weights).float(), sizes))


def _sharing(rows: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """Of each token of all rows, one after another: how many rows are the same up to and with it."""
    nodes: dict[tuple[int, int], int] = {}  # of a tree of prefixes: the one before, and a token
    path = []
    for ids in rows:
        node = -1
        for token in ids.tolist():
            node = nodes.setdefault((node, token), len(nodes))
            path.append(node)
    return np.bincount(path)[path]
