"""How many tokens a training reads, as planned from its data; and how many a mixture of datasets is to hold.

Plain arithmetic, which plans use as well: no file is read, and numpy is not imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.digest import JSON


@dataclass(frozen=True)
class Size:
    """Rows and tokens of a train split."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class Length:
    """How long a training is: passes over its data, or sequences.

    Attributes:
        epochs: Passes over the data; counts where `sequences` is None.
        sequences: Optimizer steps times sequences a step.
        pack: Most tokens of a sequence where rows are packed; None where each row is a sequence.
    """

    epochs: float | None = None
    sequences: int | None = None
    pack: int | None = None

    @classmethod
    def of(cls, params: Mapping[str, JSON]) -> Length:
        """The length that parameters of the kind `finetune` ask for."""
        if not params.get("max_steps"):
            return cls(epochs=params.get("num_train_epochs") or 1.0)
        pack = params["max_length"] if params.get("packing") else None
        return cls(sequences=params["max_steps"] * params["global_batch_size"], pack=pack)

    def tokens(self, size: Size) -> float:
        """The tokens that a training of this length reads of a split; a sequence counts as the mean one."""
        if self.sequences is None:
            return size.tokens * (self.epochs or 1.0)
        sequences = size.rows if self.pack is None else math.ceil(size.tokens / self.pack)
        return self.sequences * size.tokens / max(sequences, 1)


def token_shares(sizes: Sequence[Size], given: Sequence[float | None]) -> list[float]:
    """Each dataset's share of a mixture's tokens; they sum to 1.

    Args:
        sizes: The train splits.
        given: What the recipe says; None, of one or of all, stands for the tokens of the split.
    """
    weights = [size.tokens if share is None else share for size, share in zip(sizes, given, strict=True)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def mixture_tokens(sizes: Sequence[Size], shares: Sequence[float], length: Length) -> float:
    """The tokens of a mixture that says itself how long it is trained.

    Args:
        sizes: The train splits.
        shares: As `token_shares` returns.
        length: Of the mixture: an epoch is one pass over all rows of the datasets that have a share.
    """
    used = [(size, share) for size, share in zip(sizes, shares, strict=True) if share]
    if length.sequences is None:
        return length.tokens(Size(0, sum(size.tokens for size, _ in used)))
    if length.pack is not None:
        return float(length.sequences * length.pack)
    # A mixture has its datasets by tokens, and a training counts sequences: of rows as long as each dataset's mean one,
    # so many make up a token of the mixture.
    rows_a_token = math.fsum(share * size.rows / max(size.tokens, 1) for size, share in used)
    return length.sequences / rows_a_token
