"""Rows of datasets, what each of their tokens counts, and the pieces in which linear modules take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.actions.match.normal import CHUNK
from dem_build.data.tokenise import MASKED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    TokenRow = tuple[NDArray[Any], NDArray[Any]]

MOST = 8.0
"""How many times as much as the others tokens weigh at most whose next one counts, and others as these."""


@dataclass(frozen=True)
class SampledRows:
    """Rows of one dataset.

    Attributes:
        rows: Input ids and labels of each, [tokens].
        saliency: Name of a weight of the files → the saliency of all rows' tokens at its input, [tokens]; none where
            it is not to count.
    """

    rows: Sequence[TokenRow]
    saliency: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class WeighedRow:
    """One row of a dataset.

    Attributes:
        term: Which vector is its dataset's.
        ids: [1, tokens].
        weights: a_j s_t, float32 [tokens, 1].
        salient: Name of a linear module → the same by the tokens' saliency at its input.
    """

    term: int
    ids: torch.Tensor
    weights: torch.Tensor
    salient: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """How many."""
        return self.ids.shape[1]

    def weights_at(self, name: str) -> torch.Tensor:
        """What each token weighs where a linear module is fitted, float32 [tokens, 1]."""
        return self.salient.get(name, self.weights)


@dataclass(frozen=True, eq=False)
class Piece:
    """At most CHUNK tokens of one dataset, one row after another."""

    parts: Sequence[tuple[WeighedRow, slice]]

    @property
    def term(self) -> int:
        """Which vector is the dataset's."""
        return self.parts[0][0].term

    def weights_at(self, name: str) -> torch.Tensor:
        """What each token weighs where a linear module is fitted, float32 [tokens, 1]."""
        return torch.cat([row.weights_at(name)[part] for row, part in self.parts])


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


def weighed(
    rows: Sequence[TokenRow],
    importance: float,
    term: int,
    device: torch.device,
    saliency: Mapping[str, NDArray[np.float32]] | None = None,
) -> list[WeighedRow]:
    """Rows of one dataset on a device.

    Args:
        rows: As of `token_weights`.
        importance: As there.
        term: Which vector is the dataset's.
        device: Where the rows are to be.
        saliency: Name of a linear module → that of each token of all rows at its input, [tokens].
    """
    sizes = [len(ids) for ids, _ in rows]
    weights = torch.cat(token_weights(rows, importance))

    def cut(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(values.to(device)[:, None], sizes)

    # What several modules are given has one saliency, and is cut once: one factor is then of all of them.
    of_input = {id(values): values for values in (saliency or {}).values()}
    by_input = {place: cut(salient_weights(weights, values)) for place, values in of_input.items()}
    salient = {name: by_input[id(values)] for name, values in (saliency or {}).items()}
    return [
        WeighedRow(
            term,
            torch.from_numpy(ids.astype("int64"))[None].to(device),
            own,
            {name: parts[i] for name, parts in salient.items()},
        )
        for i, ((ids, _), own) in enumerate(zip(rows, cut(weights), strict=True))
    ]


def salient_weights(weights: torch.Tensor, saliency: NDArray[np.float32]) -> torch.Tensor:
    """a_j s_t g_t, g_t the saliency of a token, times what makes their sum that of a_j s_t; a_j s_t where all g are 0.

    Args:
        weights: a_j s_t of all tokens of a dataset, float32 [tokens].
        saliency: g_t, [tokens].
    """
    found = weights.double() * torch.from_numpy(saliency).double()
    total = found.sum()
    return (found * (weights.double().sum() / total)).float() if total > 0 else weights


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
