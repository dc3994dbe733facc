"""The negative log-likelihood of the tokens that count: one function, in training and in evaluation alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dem_build.model.head import change_of, nll_in_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["IGNORED", "token_nll"]

IGNORED = -100
"""The label of a token that does not count."""


def token_nll(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the float32 negative log-likelihood, in nats, of each token that counts.

    No attention mask is given: rows are padded on the right, where a causal model's real tokens cannot look, and
    without a mask the fastest attention kernels apply. Logits are made for the tokens that count and no others:
    for a small model with a large vocabulary they are much of the work and most of the memory. Where they are very many
    they are made in pieces, see `head`.

    Args:
        model: A causal language model.
        input_ids: Rows padded on the right, [rows, length].
        labels: The same tokens, `IGNORED` where they do not count; a row's first never does. [rows, length].
        position_ids: Where rows hold several documents: each token's place in its own. [rows, length].

    Returns:
        [tokens that count], in the order of `labels` read row by row.
    """
    targets = labels[:, 1:]
    counts = targets != IGNORED
    wanted = targets[counts]
    change = change_of(model, len(wanted))
    found: list[torch.Tensor] = []
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    # Ahead of the head and not in its place: what a model does to its logits afterwards (scaling, soft caps) stays.
    def select(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0][:, :-1][counts]
        if change is None:
            return (hidden.unsqueeze(0), *arguments[1:])
        # Here and not behind the model: this is inside of its autocast.
        found.append(nll_in_pieces(head, change, hidden, wanted))
        return (hidden[:1].detach().unsqueeze(0), *arguments[1:])

    hook = head.register_forward_pre_hook(select)
    positions = {} if position_ids is None else {"position_ids": position_ids}
    try:
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False, **positions).logits
    finally:
        hook.remove()
    if found:
        return found[0]
    return torch.nn.functional.cross_entropy(logits.squeeze(0).float(), wanted, reduction="none")
