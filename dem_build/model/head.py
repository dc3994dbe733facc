"""The likelihood of tokens from hidden states, some tokens at a time: all logits at once can be the most of the memory.

8,000 tokens by a vocabulary of 150,000 are 5 GB of float32, and as much again for each of softmax and gradient. Here
the logits of a piece are made, used and forgotten, and made once more in the backward pass.

Models change their logits behind the head (soft caps, scales), which a piece must be too. What a model does is known
from its config's words and checked against the model itself; one that does something else gets all logits at once.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    Change: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"

__all__ = ["MOST_LOGITS", "change_of", "nll_in_pieces"]

MOST_LOGITS = 1 << 28
"""Logits that are made at once: 1 GiB of float32. Fewer would cost time, and the layers' activations take as much."""

LARGE = 100.0
"""Logits of the check: so large that no soft cap passes for none."""

_CHANGES: weakref.WeakKeyDictionary[Any, Change | None] = weakref.WeakKeyDictionary()


def nll_in_pieces(
    head: torch.nn.Module, change: Change, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the float32 negative log-likelihood of each token, [tokens].

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

    pieces = -(-len(targets) * _vocabulary(head) // MOST_LOGITS)
    size = -(-len(targets) // pieces)
    found = [
        checkpoint(piece, states, wanted, use_reentrant=False)
        if hidden.requires_grad
        else piece(states, wanted)
        for states, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return torch.cat(found)


def change_of(model: PreTrainedModel, tokens: int) -> Change | None:
    """Return what the model does to its logits; None where that is not known, or so many tokens need no pieces."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not hasattr(head, "weight") or tokens * _vocabulary(head) <= MOST_LOGITS:
        return None
    if model not in _CHANGES:
        _CHANGES[model] = _find_change(model, head)
    return _CHANGES[model]


def _vocabulary(head: Any) -> int:
    return int(head.weight.shape[0])


@torch.no_grad()
def _find_change(model: PreTrainedModel, head: Any) -> Change | None:
    """Give the head large states in place of the model's own, and see what becomes of their logits."""
    random = torch.Generator(device="cpu").manual_seed(0)  # of its own: a training's must not move
    plain: list[torch.Tensor] = []

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
    most = 2 * torch.finfo(plain[0].dtype).eps
    close = (
        c for c in _known(model.config) if torch.allclose(c(plain[0]).float(), logits.float(), rtol=most)
    )
    return next(close, None)


def _known(config: Any) -> Iterator[Change]:
    """Yield the changes that transformers' models make, with the numbers of a config."""
    yield lambda logits: logits
    if cap := getattr(config, "final_logit_softcapping", None):
        yield lambda logits: torch.tanh(logits / cap) * cap
    if divisor := getattr(config, "logits_scaling", None):
        yield lambda logits: logits / divisor
    if factor := getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None):
        yield lambda logits: logits * factor
