"""What tuning judges candidates on: validation rows that no vector was trained on, in blocks, and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from dem_build.data.arrays import TokenRows, trained_prompts
from dem_build.data.tokenise import MASKED
from dem_build.digest import of_json
from dem_build.errors import EvaluationError
from dem_build.model.batches import by_length
from dem_build.model.context_length import longest_short, refuse_longer
from dem_build.model.likelihood import row_nll

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import Digest
    from dem_build.step import Group

ROWS = ("data/rows", "data/validation", "data/test")
"""Tags under which a group has rows that judge."""
BLOCKS = 16
"""Parts that a judge's prompts are dealt into: derivatives are kept for each, and resampling draws them.

A derivative for each row would cost a backward pass for each. Of far fewer blocks a standard error is hardly known
itself: of 16 normal values to 1 / √(2 · 15) = 18 %.
"""

MOST_PADDING = 0.25
"""Share of a batch of one block's rows: a block has too few rows to sort into batches of like length."""


@dataclass(frozen=True)
class Judge:
    """Rows that judge candidates.

    Attributes:
        group: The dataset's group, or the probe's.
        rows: The split.
        blocks: Indices of the rows that are used, dealt into blocks; all rows of one prompt are in one.
        left_out: Rows left out because a vector was trained on their prompt.
        tokens: Tokens that count, of each block, [BLOCKS]; 0 where there are fewer rows.
    """

    group: Group
    rows: TokenRows
    blocks: tuple[tuple[int, ...], ...]
    left_out: int
    tokens: NDArray[np.float64]

    @property
    def digest(self) -> Digest:
        """Digest of the split: what names it in outputs."""
        return next(self.group.digests[tag] for tag in ROWS if tag in self.group.digests)

    @property
    def identity(self) -> str:
        """What tells whether two judges count the same rows in the same blocks."""
        return of_json([self.digest, [list(block) for block in self.blocks]])

    @property
    def used(self) -> int:
        """Number of rows that are used."""
        return sum(len(block) for block in self.blocks)

    @property
    def prompts(self) -> int:
        """Number of different prompts of the rows that are used."""
        return len(np.unique(self.rows.prompt_numbers[[i for block in self.blocks for i in block]]))


def judges(
    groups: Mapping[str, Group],
    tag: Mapping[str, str],
    trained: NDArray[np.uint64],
    most: int,
    *,
    all_can: bool = True,
) -> list[Judge]:
    """A judge for each group, in order.

    Args:
        groups: By name.
        tag: Name → the input that holds its rows.
        trained: As `trained_prompts` returns.
        most: Most rows to use: those of the smallest prompt hashes, the same ones every time.
        all_can: Whether a group without such rows is an error; else it is left out.

    Raises:
        EvaluationError: A group has no row that counts and that no vector was trained on.
    """
    found = [_judge(group, group.paths[tag[name]], trained, most) for name, group in groups.items()]
    for judge in found if all_can else ():
        if not judge.tokens.sum():
            raise EvaluationError(
                f"there is nothing to tune on: of {len(judge.rows)} validation rows {judge.left_out} are trained on "
                "too, and no token of the others counts",
                where=judge.group.name,
                hint="hold out rows that nothing is trained on (`validation`; a vector's `rows`), or give every "
                "ω a number",
            )
    return [judge for judge in found if judge.tokens.sum()]


def validation_judges(
    groups: Sequence[Group], config: Path, most: int, *, all_can: bool = True
) -> list[Judge]:
    """The datasets' judges, then the probes'.

    Args:
        groups: Of a dataset (`data/validation`, `data/train`), of a probe (`data/rows`), or of neither.
        config: The base's config.
        most: Most rows of each.
        all_can: Whether a group without rows to judge by is an error; else it is left out.

    Raises:
        EvaluationError: A group has no row that counts and that no vector was trained on.
        DataError: A row has more tokens than the model takes.
    """
    rows = {g.name: tag for g in groups for tag in ROWS if tag in g.paths}
    judging: dict[str, Group] = {g.name: g for g in groups if g.name in rows}
    trained = trained_prompts([g.paths["data/train"] for g in groups if "data/train" in g.paths])
    found = judges(judging, rows, trained, most, all_can=all_can)
    for judge in found:
        refuse_longer(judge.rows, config)
    # A stable sort: each part stays in the order of its groups.
    return sorted(found, key=lambda judge: "data/rows" in judge.group.paths)


def _judge(group: Group, path: Path, trained: NDArray[np.uint64], most: int) -> Judge:
    rows = TokenRows.open(path)
    prompts = rows.prompt_numbers
    known = np.isin(prompts, trained)
    fresh = np.flatnonzero(~known)
    # Hashes know no length and no topic, so the first of them are a fair sample, and so is each block of them. A row
    # that is added to the file takes the place of the last one at most.
    ordered = fresh[np.argsort(prompts[fresh], kind="stable")].tolist()
    # A row of which nothing counts tells nothing, and would leave a block empty.
    chosen = list(islice((i for i in ordered if _counted(rows, i)), most))
    blocks = deal(chosen, prompts[chosen].tolist())
    tokens = np.array([sum(_counted(rows, i) for i in block) for block in blocks], np.float64)
    return Judge(group, rows, blocks, int(known.sum()), tokens)


def deal(rows: Sequence[int], prompts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Deal rows into blocks by their prompts: those of the most rows first, each to the block that has the fewest.

    Blocks are what resampling takes for independent, and the rows of one prompt are not. Rows of a prompt each come one
    by one to one block after another.

    Args:
        rows: Their indices, in an order that knows nothing of what is in them.
        prompts: A number for the prompt of each, in the same order.
    """
    of: dict[int, list[int]] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        of.setdefault(prompt, []).append(row)
    blocks: list[list[int]] = [[] for _ in range(BLOCKS)]
    for together in sorted(of.values(), key=len, reverse=True):
        min(blocks, key=len).extend(together)
    return tuple(map(tuple, blocks))


def batches(model: PreTrainedModel, judge: Judge, block: int | None, size: int) -> Iterator[list[int]]:
    """Yield the rows of one block, or of all, in batches as `row_losses` makes them."""
    rows = [i for part in judge.blocks for i in part] if block is None else judge.blocks[block]
    lengths = judge.rows.lengths[list(rows)]
    padding = 1.0 if block is None else MOST_PADDING
    for batch in by_length(lengths, size, longest_short(model.config), padding):
        yield [rows[i] for i in batch]


def judged_nll(model: PreTrainedModel, judge: Judge, rows: Sequence[int]) -> torch.Tensor:
    """The summed loss of each of a judge's rows, with its graph, [rows]."""
    return row_nll(model, [judge.rows[i] for i in rows])[0]


def _counted(rows: TokenRows, index: int) -> int:
    _, labels = rows[index]
    return int(np.count_nonzero(labels[1:] != MASKED))
