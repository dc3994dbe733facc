"""How sure a difference between two models is that were evaluated on the same rows.

Two models find the same rows hard, so their losses rise and fall together, and the error of the difference is mostly
far below both errors taken together. It is that of a ratio over prompts (`stats.stderr_of_ratio`), of the differences
between the two models' summed losses of each row.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError, deserialize

from dem_build.stats import stderr_of_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class RowLosses:
    """What a model lost on each row of a split.

    Attributes:
        nll: Summed loss in nats, [rows].
        tokens: How many tokens count, [rows].
        prompts: A number for the prompt of each, [rows]; None where nothing says that two rows have one prompt.
    """

    nll: Sequence[float]
    tokens: Sequence[int]
    prompts: Sequence[int] | None = None


class PairedRows:
    """Model → task → its losses row by row, and from them the errors of differences."""

    def __init__(self, losses: Mapping[str, Mapping[str, RowLosses]] | None = None) -> None:
        """Take what was recorded."""
        self._losses = losses or {}
        self._known: dict[tuple[str, str, str], float | None] = {}

    def stderr(self, task: str, one: str, other: str) -> float | None:
        """The standard error of the difference between two models, None where rows do not tell it."""
        pair = (task, min(one, other), max(one, other))
        if pair not in self._known:
            ours, theirs = (self._losses.get(model, {}).get(task) for model in (one, other))
            self._known[pair] = None
            if ours is not None and theirs is not None and _are_pairs(ours, theirs):
                apart = [a - b for a, b in zip(ours.nll, theirs.nll, strict=True)]
                self._known[pair] = stderr_of_ratio(apart, ours.tokens, ours.prompts or theirs.prompts)
        return self._known[pair]


def _are_pairs(ours: RowLosses, theirs: RowLosses) -> bool:
    # Other counts of tokens, or other prompts, are other rows, or in another order, or others of their tokens.
    told = [rows.prompts for rows in (ours, theirs) if rows.prompts is not None]
    return ours.tokens == theirs.tokens and all(prompts == told[0] for prompts in told)


def read_rows(data: bytes) -> RowLosses:
    """What the output `rows` of a held-out loss holds.

    Raises:
        ValueError: It is of another shape.
    """
    try:
        stored = {name: (tensor["dtype"], tensor["data"]) for name, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
        (floats, nll), (integers, tokens) = stored["nll"], stored["tokens"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    numbers, prompts = stored.get("prompts", ("U64", None))
    told = None if prompts is None else array("Q", bytes(prompts))
    rows = RowLosses(array("f", bytes(nll)), array("i", bytes(tokens)), told)
    if (floats, integers, numbers) != ("F32", "I32", "U64") or len(rows.nll) != len(rows.tokens):
        raise ValueError("not a loss and a number of tokens for each row")
    if told is not None and len(told) != len(rows.nll):
        raise ValueError("not a prompt for each row")
    if not all(map(math.isfinite, rows.nll)) or min(rows.tokens, default=0) < 0:
        raise ValueError("a row's loss or number of tokens is none")
    return rows
