"""Greedy answers of a model to several prompts at once, padded on the left: the same as each prompt's alone."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from dem_build.model.context_length import longest_short
from dem_build.model.load import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from dem_build.step import Context

__all__ = ["greedy_answers"]


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    rooms: Sequence[int],
    stops: Sequence[int],
    context: Context,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, the stop at the end included where the model came to one.

    What a model's own generation config says of sampling, penalties and the like plays no part.

    Args:
        model: A causal language model.
        prompts: Token ids of each.
        rooms: Most tokens of each answer.
        stops: Tokens that end an answer.
        context: Uses `machine.eval_batch_size`.

    Raises:
        InterruptedBuildError: The user asked to stop.
    """
    answers: dict[int, list[int]] = {}
    own = model.generation_config
    model.generation_config = _settings()  # generate() would take from it what ours leaves open
    try:
        for batch in _batches(model, prompts, rooms, context.machine.eval_batch_size):
            watch = _Watch(context, len(answers), len(batch), len(prompts), rooms[batch[0]])
            made = _generated(model, [prompts[i] for i in batch], rooms[batch[0]], stops, watch)
            answers |= dict(zip(batch, made, strict=True))
    finally:
        model.generation_config = own
    return [answers[i] for i in range(len(prompts))]


def _batches(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], rooms: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Yield prompts that have the same room, those of like length together; alone where a batch would be read apart."""
    if longest_short(model.config) is not None:
        size = 1
    order = sorted(range(len(prompts)), key=lambda i: (rooms[i], len(prompts[i])))
    for _, alike in groupby(order, key=lambda i: rooms[i]):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _generated(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    room: int,
    stops: Sequence[int],
    watch: _Watch,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    settings = _settings(
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(stops),
        pad_token_id=0,  # what it is does not matter: the mask leaves it out, and so do we
    )
    generate: Any = model.generate  # its types leave out what it takes
    with quiet():
        # Positions follow from the mask, so padding moves none of them.
        made = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    return [_ended(row, stops) for row in made[:, longest:].tolist()]


def _settings(**said: Any) -> GenerationConfig:
    """Return a generation config that leaves all else at transformers' defaults."""
    return GenerationConfig(**said)  # type: ignore[no-untyped-call]


def _ended(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """Return tokens up to the first stop, itself included; what follows is padding."""
    end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]


class _Watch(StoppingCriteria):
    """Stops no answer: it tells how far a batch is, and heeds a user who asks to stop."""

    def __init__(self, context: Context, before: int, size: int, total: int, room: int) -> None:
        self._context, self._before, self._size, self._total, self._room = context, before, size, total, room
        self._steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return that no answer is at its end."""
        del scores
        self._context.check_stop()
        self._steps += 1
        done = self._before + self._size * min(self._steps / self._room, 1.0)
        self._context.progress(round(done, 2), self._total, "prompts")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
