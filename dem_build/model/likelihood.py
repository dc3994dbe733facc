"""The negative log-likelihood of the tokens that count: one function, in training and in evaluation alike.

All logits at once can be the most of the memory: 8,000 tokens by a vocabulary of 150,000 are 5 GB of float32, and as
much again for each of softmax and gradient. Where they are that many, they are made some tokens at a time.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.checkpoint import checkpoint

from dem_build.data.tokenise import MASKED
from dem_build.model.batches import by_length, collate
from dem_build.model.context_length import longest_short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.arrays import TokenRows

    Change: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"

MOST_LOGITS = 1 << 28
"""Logits that are made at once: 1 GiB of float32. Fewer would cost time, and the layers' activations take as much."""

LARGE = 100.0
"""Logits of the check: so large that no soft cap passes for none."""

_CHANGES: weakref.WeakKeyDictionary[Any, Change | None] = weakref.WeakKeyDictionary()


def row_losses(
    model: PreTrainedModel, rows: TokenRows, batch_size: int
) -> Iterator[dict[int, tuple[float, int]]]:
    """Yield row → summed loss in nats and number of tokens that count, a batch of rows of like length at a time.

    Rows that the model reads in two ways, see `context_length`, are in different batches.
    """
    for batch in by_length(rows.lengths, batch_size, longest_short(model.config)):
        nll, counts = row_nll(model, [rows[i] for i in batch])
        yield dict(zip(batch, zip(nll.tolist(), counts, strict=True), strict=True))


def row_nll(
    model: PreTrainedModel, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]]
) -> tuple[torch.Tensor, list[int]]:
    """The summed loss of each row of a batch, with its graph, [rows], and how many of its tokens count."""
    batch = {name: tensor.to(model.device) for name, tensor in collate(rows).items()}
    counts = (batch["labels"][:, 1:] != MASKED).sum(dim=1).tolist()
    return torch.stack([row.sum() for row in torch.split(token_nll(model, **batch), counts)]), counts


def token_nll(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """The float32 negative log-likelihood, in nats, of each token that counts.

    Args:
        model: A causal language model.
        input_ids: Rows padded on the right, [rows, length].
        labels: The same tokens, `MASKED` where they do not count; a row's first never does. [rows, length].
        position_ids: Where rows hold several documents: each token's place in its own. [rows, length].

    Returns:
        [tokens that count], in the order of `labels` read row by row.
    """
    targets = labels[:, 1:]
    counts = targets != MASKED
    wanted = targets[counts]
    change = _change_of(model, len(wanted))
    found: list[torch.Tensor] = []
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    # Logits are made for the tokens that count and no others: for a small model with a large vocabulary they are much
    # of the work. A hook ahead of the head and not in its place: what a model does to its logits afterwards stays.
    def select(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0][:, :-1][counts]
        if change is None:
            return (hidden.unsqueeze(0), *arguments[1:])
        # Here and not behind the model: this is inside of its autocast.
        found.append(_nll_in_pieces(head, change, hidden, wanted))
        return (hidden[:1].detach().unsqueeze(0), *arguments[1:])

    hook = head.register_forward_pre_hook(select)
    positions = {} if position_ids is None else {"position_ids": position_ids}
    try:
        # No attention mask: rows are padded on the right, where a causal model's real tokens cannot look, and without
        # a mask the fastest attention kernels apply.
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False, **positions).logits
    finally:
        hook.remove()
    if found:
        return found[0]
    return torch.nn.functional.cross_entropy(logits.squeeze(0).float(), wanted, reduction="none")


def _nll_in_pieces(
    head: torch.nn.Module, change: Change, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The float32 negative log-likelihood of each token, [tokens], from at most `MOST_LOGITS` logits at once.

    Args:
        head: From hidden states to logits.
        change: What the model does to its logits.
        hidden: The hidden states that predict the tokens, [tokens, hidden].
        targets: The tokens, [tokens].
    """

    def piece(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        # Not by calling it: its hooks are what leads here.
        logits = change(head.forward(states))
        return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")

    # Cut by tokens and not by the vocabulary: each token's softmax is then whole, and its sum is the one that all
    # logits at once would give. A piece's logits are forgotten, and made once more in the backward pass (activation
    # checkpointing, Chen et al. 2016, arXiv 1604.06174): kept for the gradient, they would be all there again.
    pieces = -(-len(targets) * _vocabulary(head) // MOST_LOGITS)
    size = -(-len(targets) // pieces)
    found = [
        checkpoint(piece, states, wanted, use_reentrant=False)
        if hidden.requires_grad
        else piece(states, wanted)
        for states, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(found)


def _change_of(model: PreTrainedModel, tokens: int) -> Change | None:
    """What the model does to its logits; None where that is not known, or so many tokens need no pieces."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not hasattr(head, "weight") or tokens * _vocabulary(head) <= MOST_LOGITS:
        return None
    look_at_logits(model)
    return _CHANGES[model]


def look_at_logits(model: PreTrainedModel) -> None:
    """Find out what the model does to its logits, once: else a pass does, when it first has many of them."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if model not in _CHANGES and hasattr(head, "weight"):
        _CHANGES[model] = _find_change(model, head)


def _vocabulary(head: Any) -> int:
    return int(head.weight.shape[0])


@torch.no_grad()
def _find_change(model: PreTrainedModel, head: Any) -> Change | None:
    """Which known change the model makes to its logits, as it shows when asked; None where it makes another one."""
    random = torch.Generator(device="cpu").manual_seed(0)  # of its own: a training's must not move
    plain: list[torch.Tensor] = []

    # Large states in place of the model's own: small logits pass through a soft cap (tanh) nearly as they are.
    def replace(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = torch.randn(arguments[0].shape, generator=random).to(arguments[0])
        states = states * (LARGE / head.forward(states).abs().max())
        plain.append(head.forward(states))
        return (states, *arguments[1:])

    hook, training = head.register_forward_pre_hook(replace), model.training
    model.train(False)
    try:
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
        model.train(training)
    # A change in another order of the same operations differs by a rounding or two; another change by far more.
    most = 2 * torch.finfo(plain[0].dtype).eps
    close = (
        c for c in _known(model.config) if torch.allclose(c(plain[0]).float(), logits.float(), rtol=most)
    )
    return next(close, None)


def _known(config: Any) -> Iterator[Change]:
    """Yield the changes that transformers' models make (soft caps, scales), with the numbers of a config."""
    yield lambda logits: logits
    if cap := getattr(config, "final_logit_softcapping", None):
        yield lambda logits: torch.tanh(logits / cap) * cap
    if divisor := getattr(config, "logits_scaling", None):
        yield lambda logits: logits / divisor
    if factor := getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None):
        yield lambda logits: logits * factor
