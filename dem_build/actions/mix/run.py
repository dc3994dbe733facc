"""Kind `mix`: the rows of several datasets become one train split, which one vector is trained on.

A dataset gives its share of the tokens: all its rows as often as they fit in wholly, and of the rest a sample without
replacement. Datasets of the same rows are drawn from as one, so that no row stands more often than it must. Without a
length of its own the mixture holds as many tokens as the datasets' own trainings read together. Groups come in an order
that no name reaches, and so do the rows.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.prepare.notes import size_of, whole_prompts
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.budget import Length, Size, mixture_tokens, token_shares
from dem_build.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from dem_build.digest import JSON
    from dem_build.step import Context, Group, Inputs, Provenance

SEED = 0  # of which rows make up the rest: the order of training is the training's own
NOTED = 1024  # rows between two looks at whether to stop


@dataclass(frozen=True)
class _Part:
    """One dataset of a mixture.

    Attributes:
        rows: Its train split.
        share: Of the mixture's tokens.
        indices: The rows that it gives, in order, as often as they are given.
    """

    group: Group
    rows: TokenRows
    share: float
    indices: npt.NDArray[np.int64]

    def document(self) -> dict[str, JSON]:
        """What is worth knowing of it: the names of datasets are the recipe's, so it is by its digest."""
        tokens = int(self.rows.lengths[self.indices].sum())
        return {
            "train": self.group.digests["data/train"],
            "share": self.share,
            "rows": len(self.indices),
            "tokens": tokens,
            "epochs": tokens / max(self.rows.tokens, 1),
        }


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `train`, and `validation`: the datasets' validation rows whose prompts no dataset trains on.

    Args:
        inputs: A group for each dataset: `data/train`, and `data/validation` where the training takes losses. Its
            `share` (absent: as its split is large) and, where the mixture is as long as all trainings together,
            the length of its own: `epochs`, or `sequences` (and `pack`).
        params: The mixture's own length, likewise; none of it where it is as long as all together.
        context: The run's surroundings.

    Returns:
        The tokens that were planned, those of the datasets' own trainings, and what each dataset gives.

    Raises:
        DataError: The mixture is too short to hold a row.
    """
    splits = [TokenRows.open(group.paths["data/train"]) for group in inputs.groups]
    sizes = [Size(len(rows), rows.tokens) for rows in splits]
    shares = token_shares(sizes, [group.params.get("share") for group in inputs.groups])
    own = _length(params)
    trained = [_length(group.params) for group in inputs.groups]
    together = math.fsum(length.tokens(size) for length, size in zip(trained, sizes, strict=True) if length)
    planned = together if own is None else mixture_tokens(sizes, shares, own)
    # Where some datasets have the same rows, each goes on where the one before it ended.
    ends = dict.fromkeys((group.digests["data/train"] for group in inputs.groups), 0.0)
    parts = []
    for group, rows, share in zip(inputs.groups, splits, shares, strict=True):
        train = group.digests["data/train"]
        begin, ends[train] = ends[train], ends[train] + share * planned
        parts.append(_Part(group, rows, share, drawn(rows.lengths, ends[train], begin)))
    if not any(len(part.indices) for part in parts):
        raise DataError(
            f"a mixture of {planned:,.0f} tokens has room for no row",
            hint="train it, or the vectors that it is compared with, for longer",
        )
    _tell(parts, planned, context)
    context.out.mkdir(parents=True, exist_ok=True)
    return {
        "planned_tokens": round(planned),
        "compared_tokens": round(together) if own is None else None,
        "parts": [part.document() for part in parts],
        "splits": _write(parts, context),
    }


def drawn(lengths: npt.NDArray[np.int64], tokens: float, begin: float = 0.0) -> npt.NDArray[np.int64]:
    """The rows that come to some number of tokens: whole passes first, then a sample without replacement.

    Args:
        lengths: Tokens of each row.
        tokens: Where to end; met to within half the row at which the sample ends.
        begin: Where another draw of them ended, whose rows are left out.

    Returns:
        Indices of rows, pass by pass, each in the order of the split.
    """
    if not begin:
        return _first(lengths, tokens)
    # A longer draw holds a shorter one, so what it has more is what comes after it.
    before, all_drawn = (np.bincount(_first(lengths, n), minlength=len(lengths)) for n in (begin, tokens))
    left = all_drawn - before
    passes = [np.flatnonzero(left > n) for n in range(int(left.max(initial=0)))]
    return np.concatenate([np.zeros(0, np.int64), *passes])


def _first(lengths: npt.NDArray[np.int64], tokens: float) -> npt.NDArray[np.int64]:
    total = int(lengths.sum())
    if not total:
        return np.zeros(0, np.int64)
    passes = int(tokens // total)
    # The same order for every number of tokens: so a longer draw holds a shorter one.
    shuffled = np.random.default_rng([SEED, len(lengths)]).permutation(len(lengths))
    # Rows are drawn until their tokens are nearest to what is left: less than half a row is missing, or too many.
    ends = np.concatenate([[0], np.cumsum(lengths[shuffled])])
    count = int(np.abs(ends - (tokens - passes * total)).argmin())
    rest = np.sort(shuffled[:count])
    return np.concatenate([np.tile(np.arange(len(lengths)), passes), rest])


def _length(params: Mapping[str, JSON]) -> Length | None:
    found = {name: params.get(name) for name in ("epochs", "sequences", "pack")}
    return Length(**found) if any(found.values()) else None


def _tell(parts: Sequence[_Part], planned: float, context: Context) -> None:
    given = ", ".join(
        f"{part.group.name} {document['tokens']:,} ({document['epochs']:.3g} epochs)"
        for part in parts
        for document in [part.document()]
    )
    context.note(f"{planned:,.0f} tokens planned, of {given}")
    for part in parts:
        if part.share and not len(part.indices):
            context.warn(f"the share of {part.group.name} comes to no row, and it gives none")


def _write(parts: Sequence[_Part], context: Context) -> dict[str, JSON]:
    """Write both splits and return their sizes, as those of a dataset."""
    trained = np.unique(np.concatenate([whole_prompts(part.rows.prompts) for part in parts]))
    with ExitStack() as stack:
        names = ("train", "validation")
        writers = {n: stack.enter_context(RowsWriter(context.work / "spool" / n)) for n in names}
        for part in parts:
            _copy(part.rows, part.indices.tolist(), writers["train"], context)
            if "data/validation" in part.group.paths:
                held = TokenRows.open(part.group.paths["data/validation"])
                fresh = np.flatnonzero(~np.isin(whole_prompts(held.prompts), trained))
                _copy(held, fresh.tolist(), writers["validation"], context)
        for name, writer in writers.items():
            writer.save(context.out / name)
        return {name: size_of(writer) for name, writer in writers.items()}


def _copy(rows: TokenRows, indices: Iterable[int], writer: RowsWriter, context: Context) -> None:
    for index in indices:
        if len(writer) % NOTED == 0:
            context.check_stop()
        ids, labels = rows[index]
        writer.append(ids, labels, rows.prompts[index].tobytes())
