"""Rows of datasets, what each of their tokens counts, and the pieces in which linear modules take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dem_build.actions.match.normal import CHUNK
from dem_build.data.tokenise import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

__all__ = ["Piece", "WeighedRow", "pieces_of", "token_weights", "weighed"]


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
    """At most CHUNK tokens of one dataset, one row after another.

    Attributes:
        parts: Rows, and which tokens of each.
    """

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
    """a_j s_t of each token: half of a dataset's weight on those whose next token counts, half on the others.

    Args:
        rows: Input ids and labels of each row of one dataset.
        importance: a_j, what all of them sum to.

    Returns:
        float32 [tokens] a row.
    """
    counting = [torch.zeros(len(ids), dtype=torch.bool) for ids, _ in rows]
    for found, (_, labels) in zip(counting, rows, strict=True):
        found[:-1] = torch.from_numpy(labels[1:] != MASKED)
    count = sum(int(found.sum()) for found in counting)
    others = sum(len(found) for found in counting) - count
    share = 0.5 if count and others else 1.0
    of = [importance * share / max(others, 1), importance * share / max(count, 1)]
    table = torch.tensor(of, dtype=torch.float64).float()
    return [table[found.long()] for found in counting]
