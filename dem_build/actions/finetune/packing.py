"""Packing: several documents in one sequence, kept apart by their positions, and a check that the model does so.

As M. M. Krell et al., Efficient Sequence Packing without Cross-contamination (arXiv 2107.02027): what a document's
tokens predict is as if it were alone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.data.tokenise import MASKED
from dem_build.errors import TrainingError
from dem_build.model.likelihood import token_nll

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.arrays import TokenRows

    Pack = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]

LARGEST_DIFFERENCE = 1e-3
LARGEST_HALF_DIFFERENCE = 0.1
"""Most that the nats of a token may differ between packed and alone; the second where attention is in bfloat16."""


class Packs:
    """Rows in sequences of at most `max_length` tokens.

    Attributes:
        lengths: Tokens of each pack, int64 [packs].
    """

    def __init__(self, rows: TokenRows, max_length: int, seed: int) -> None:
        self._rows = rows
        self.members = best_fit(rows.lengths, max_length, seed)
        self.lengths = np.array([rows.lengths[pack].sum() for pack in self.members], np.int64)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Pack:
        """A pack's input ids, labels and positions, [tokens] each; positions begin anew with each document."""
        return _joined([self._rows[row] for row in self.members[index]])


def _joined(documents: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> Pack:
    ids, labels = (np.concatenate(arrays) for arrays in zip(*documents, strict=True))
    starts = np.cumsum([0, *(len(document) for document, _ in documents[:-1])])
    labels[starts] = MASKED  # alone, a document's first token is predicted from nothing
    # Positions alone keep documents apart: transformers takes one that does not follow the one before as the start of
    # another document, and masks attention accordingly, where it is given no attention mask and no cache
    # (`masking_utils.find_packed_sequence_indices`). Rotary positions are then those of each document alone.
    return ids, labels, np.concatenate([np.arange(len(document)) for document, _ in documents])


def best_fit(lengths: NDArray[np.integer], capacity: int, seed: int) -> list[list[int]]:
    """Put rows together, the longest first, each where it leaves the least room; return the rows of each pack.

    Args:
        lengths: Tokens of each row.
        capacity: Most tokens of a pack; a longer row is a pack of its own.
        seed: Of the order of rows of equal length, which in a file are often of one kind.
    """
    # Best-fit decreasing: at most 11/9 of the fewest packs that there can be, and 4 (Johnson et al., SIAM J. Comput. 3,
    # 1974).
    shuffled = np.random.default_rng([seed, len(lengths)]).permutation(len(lengths))
    packs: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    # Bit n is set where some pack has room for n tokens: the least room that is enough is the lowest bit that a shift
    # by the length leaves. So a row takes one look and not one for each pack: best fit by a search is quadratic.
    rooms = 0
    for row in shuffled[np.argsort(-lengths[shuffled], kind="stable")].tolist():
        length = int(lengths[row])
        fitting = rooms >> length
        if not fitting:
            room, pack = max(capacity, length), len(packs)
            packs.append([])
        else:
            room = length + (fitting & -fitting).bit_length() - 1  # n & -n keeps the lowest bit of n alone
            pack = with_room[room].pop()
            rooms &= ~(0 if with_room[room] else 1 << room)
        packs[pack].append(row)
        with_room.setdefault(room - length, []).append(pack)
        rooms |= 1 << (room - length)
    return packs


def collate_packs(packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
    """Packs as tensors [packs, longest], padded on the right with documents of one token, which do not count."""
    longest = max(len(ids) for ids, *_ in packs)
    input_ids = np.zeros((len(packs), longest), np.int64)
    labels = np.full((len(packs), longest), MASKED, np.int64)
    positions = np.zeros((len(packs), longest), np.int64)
    for i, (ids, targets, places) in enumerate(packs):
        input_ids[i, : len(ids)], labels[i, : len(ids)], positions[i, : len(ids)] = ids, targets, places
    return _tensors(input_ids, labels, positions)


def _tensors(*arrays: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    names = ("input_ids", "labels", "position_ids")
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def collation_for(model: PreTrainedModel) -> Callable[[Sequence[Pack]], dict[str, torch.Tensor]]:
    """What makes packs into tensors for the model's attention kernel."""
    if not _is_flash(model):
        return collate_packs

    # transformers tells flash attention of packed documents in a batch of one row only: [1, tokens], without padding.
    def in_one_row(packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
        return _tensors(
            *(np.concatenate(arrays)[None].astype(np.int64) for arrays in zip(*packs, strict=True))
        )

    return in_one_row


def refuse_mixing(model: PreTrainedModel) -> None:
    """Check, on documents of random tokens, that the model does not let one see another in its pack.

    Raises:
        TrainingError: It does, as recurrent models do, or it takes no positions.
    """
    try:
        apart = _keeps_apart(model)
    except TypeError as error:
        if "position_ids" not in str(error):
            raise
        apart = False
    if not apart:
        raise TrainingError(
            f"{type(model).__name__} does not keep packed documents apart", hint="set packing = false"
        )


@torch.no_grad()
def _keeps_apart(model: PreTrainedModel) -> bool:
    """Compare the losses of a document behind others with those of it alone."""
    # Behind two documents of different lengths: a model that goes by the place in the pack, or that carries a state
    # over from what came before, gives other losses for at least one.
    rng = np.random.default_rng(0)
    embeddings: Any = model.get_input_embeddings()
    first, second, document = (
        rng.integers(embeddings.num_embeddings, size=n).astype(np.int32) for n in (7, 12, 9)
    )
    collate, training = collation_for(model), model.training
    # Flash kernels take no float32, and training runs them in bfloat16.
    half = torch.autocast(model.device.type, torch.bfloat16) if _is_flash(model) else contextlib.nullcontext()
    model.train(False)
    with half:
        alone = _nll(model, collate([_joined([(document, document)])]))
        packs = [_joined([(other, other), (document, document)]) for other in (first, second)]
        behind = _nll(model, collate(packs))
    model.train(training)
    # First tokens count for nothing, so `first` has one loss fewer than tokens; the last pack ends with the document.
    both = behind[len(first) - 1 :][: len(alone)], behind[-len(alone) :]
    most = LARGEST_HALF_DIFFERENCE if _is_flash(model) else LARGEST_DIFFERENCE
    return all((losses - alone).abs().max().item() < most for losses in both)


def _nll(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return token_nll(model, **{name: tensor.to(model.device) for name, tensor in batch.items()})


def _is_flash(model: PreTrainedModel) -> bool:
    return "flash" in str(model.config._attn_implementation)  # noqa: SLF001  # it has no other name
