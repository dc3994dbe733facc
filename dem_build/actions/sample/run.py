"""Kind `sample`: what a model answers to a few prompts, word for word.

Prompts are held-out rows of a dataset as they were prepared, or texts of the recipe, which are put in the prepared
base's chat template. Answers are greedy: the likeliest token each time, from the same parameters as held-out losses.
What is shown to people is the question alone: the template's words around it are taken off where they can be told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby, islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from dem_build.data.arrays import TokenRows
from dem_build.data.tokenise import MASKED
from dem_build.digest import canonical
from dem_build.errors import DataError, EvaluationError
from dem_build.model.context_length import longest_short, most_tokens, refuse_longer
from dem_build.model.environment import memory_told
from dem_build.model.generation import continued, likeliest, plain_generation, stops_of
from dem_build.model.load import OUT_OF_MEMORY_HINT, evaluated_model, quiet, surroundings
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.data.turns import Turn
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

FORMAT = "sample/1"
OPENING = 32  # tokens that a text without a prompt is begun with, at most
MARK = "dem asks"  # stands for a question in a rendered template


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `answers`.

    Args:
        inputs: `model/weights`, `model/config`, `model/tokenizer`, `model/generation_config`, and `data/rows`, a
            split's token rows, where the prompts are of a dataset.
        params: `prompts`, texts or how many rows; `max_new_tokens` of an answer; `dtype` of the parameters.
        context: Uses `machine.eval_batch_size`.

    Raises:
        EvaluationError: A prompt fills all that the model takes, or memory ran out.
        DataError: The chat template refuses a prompt, or a row has more tokens than the model takes.
        InterruptedBuildError: The user asked to stop.
    """
    config = inputs.paths["model/config"]
    tokenizer = BaseTokenizer(inputs.paths["model/tokenizer"])
    wanted = params["prompts"]
    if isinstance(wanted, list):
        prompts = of_texts(tokenizer, wanted)
    else:
        rows = TokenRows.open(inputs.paths["data/rows"])
        refuse_longer(rows, config)
        prompts = of_rows(tokenizer, rows, wanted)
    rooms = _rooms(prompts, params["max_new_tokens"], most_tokens(config))
    stops = stops_of(tokenizer, inputs.paths["model/generation_config"])
    if not prompts:
        context.warn("there are no held-out rows to ask")
    with memory_told(EvaluationError, "while answering prompts", OUT_OF_MEMORY_HINT):
        model = evaluated_model(inputs, params["dtype"], context)
        started = time.monotonic()
        answers = greedy_answers(model, [p.ids for p in prompts], rooms, stops, context)
        seconds = time.monotonic() - started
    told = [_told(tokenizer, p, a, stops) for p, a in zip(prompts, answers, strict=True)]
    context.out.mkdir(parents=True, exist_ok=True)
    (context.out / "answers").write_bytes(canonical({"format": FORMAT, "answers": told}))
    counts = {"prompts": len(prompts), "new_tokens": sum(map(len, answers))}
    return surroundings(model, context) | counts | {"device_seconds": round(seconds, 3)}


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        ids: Tokens that the model continues.
        asked: The question as people read it.
        reference: What the data answer; None of a text that a recipe gives.
    """

    ids: tuple[int, ...]
    asked: str
    reference: str | None = None


def of_rows(tokenizer: BaseTokenizer, rows: TokenRows, most: int) -> list[Prompt]:
    """The prompts of the rows with the smallest prompt hashes, no prompt twice: the same ones every time.

    Of a conversation, that is all up to its first answer that counts; of a text all of which counts, its first
    question, or where it has none, its beginning.
    """
    # By hashes: the choice does not move when other rows come or go, or the file is sorted anew.
    first: dict[bytes, int] = {}
    for row, digest in enumerate(rows.prompts):
        first.setdefault(digest.tobytes(), row)
    frame = _frame(tokenizer)
    found = (_of_row(tokenizer, *rows[first[digest]], frame) for digest in sorted(first))
    return list(islice((prompt for prompt in found if prompt is not None), most))


def of_texts(tokenizer: BaseTokenizer, texts: Sequence[str]) -> list[Prompt]:
    """Texts as questions in the base's chat template, or as they are where it has none.

    Raises:
        DataError: The template refuses a question without a system prompt.
    """
    if not tokenizer.has_chat_template:
        encoded = tokenizer.encode(texts)
        return [Prompt((*tokenizer.prefix_ids, *ids), text) for ids, text in zip(encoded, texts, strict=True)]
    rendered = tokenizer.render([[_user(text)] for text in texts], add_generation_prompt=True)
    encoded = tokenizer.encode(rendered)  # the template writes BOS itself where the model wants it
    return [Prompt(tuple(ids), text) for ids, text in zip(encoded, texts, strict=True)]


class _Frame(NamedTuple):
    """What a chat template writes before a question, whatever comes before it, and after it."""

    opening: str
    closing: str


def _frame(tokenizer: BaseTokenizer) -> _Frame | None:
    """The template's words around a question; None where there are none, or where they cannot be told."""
    if not tokenizer.has_chat_template:
        return None
    # The question alone and after an earlier turn: what both have before it is the template's, and what only the first
    # has (a default system prompt) is not part of every question.
    question = [_user(MARK)]
    later: list[Turn] = [_user("a"), {"role": "assistant", "content": "b"}, *question]
    try:
        first, last = tokenizer.render([question, later], add_generation_prompt=True)
    except DataError:
        return None
    head, _, closing = first.partition(MARK)
    pairs = zip(reversed(head), reversed(last.rpartition(MARK)[0]), strict=False)
    both = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return _Frame(both[::-1], closing)


def _of_row(
    tokenizer: BaseTokenizer, ids: NDArray[np.int32], labels: NDArray[np.int32], frame: _Frame | None
) -> Prompt | None:
    """The prompt of a row; None where nothing in it counts."""
    counts = labels != MASKED
    if not counts[1:].any():
        return None
    tokens: list[int] = ids.tolist()
    start = int(counts.argmax())
    if start <= max(1, len(tokenizer.prefix_ids)):
        start = _beginning(tokenizer, tokens, frame)
        counts[start:] = True
    answer = takewhile(lambda i: counts[i] and tokens[i] != tokenizer.eos_id, range(start, len(tokens)))
    given = tuple(tokens[:start])
    reference = continued(tokenizer, given, [tokens[i] for i in answer])
    return Prompt(given, _question(tokenizer, given, frame), reference)


def _beginning(tokenizer: BaseTokenizer, tokens: list[int], frame: _Frame | None) -> int:
    """How many tokens a row begins with, all of which counts: up to its first question's end, if it has one."""
    if frame is not None and frame.closing:
        closing = tokenizer.encode([frame.closing])[0]
        for end in range(len(closing), len(tokens)):
            if tokens[end - len(closing) : end] == closing:
                return end
    return max(1, min(OPENING, len(tokens) // 2))


def _question(tokenizer: BaseTokenizer, ids: tuple[int, ...], frame: _Frame | None) -> str:
    prefix = tokenizer.prefix_ids
    text = tokenizer.decode(ids[len(prefix) :] if ids[: len(prefix)] == prefix else ids)
    if frame is None or not frame.opening or not text.endswith(frame.closing):
        return text
    _, opening, question = text.removesuffix(frame.closing).rpartition(frame.opening)
    return question if opening else text


def _user(text: str) -> Turn:
    return {"role": "user", "content": text}


def _rooms(prompts: Sequence[Prompt], wanted: int, most: int | None) -> list[int]:
    """The most tokens of each answer: prompt and answer have to fit in what the model takes."""
    rooms = [wanted if most is None else min(wanted, most - len(p.ids)) for p in prompts]
    for prompt, room in zip(prompts, rooms, strict=True):
        if room < 1:
            raise EvaluationError(
                f"the model takes {most} tokens, and the prompt {prompt.asked[:40]!r} has {len(prompt.ids)}",
                hint="shorten it in `prompts` of [evaluate]",
            )
    return rooms


def _told(
    tokenizer: BaseTokenizer, prompt: Prompt, tokens: Sequence[int], stops: Sequence[int]
) -> dict[str, JSON]:
    ended = bool(tokens) and tokens[-1] in stops
    said = tokens[:-1] if ended else tokens
    return {
        "prompt": tokenizer.decode(prompt.ids),
        "asked": prompt.asked,
        "reference": prompt.reference,
        "answer": continued(tokenizer, prompt.ids, said),
        "tokens": len(said),
        "ended": ended,
    }


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    rooms: Sequence[int],
    stops: Sequence[int],
    context: Context,
) -> list[list[int]]:
    """The likeliest tokens that follow each prompt, the stop at the end included where the model came to one.

    Prompts are padded on the left: the answers are those of each prompt alone. What a model's own generation config
    says of sampling, penalties and the like plays no part.

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
    with plain_generation(model):
        for batch in _batches(model, prompts, rooms, context.machine.eval_batch_size):
            watch = _Watch(context, len(answers), len(batch), len(prompts), rooms[batch[0]])
            made = _generated(model, [prompts[i] for i in batch], rooms[batch[0]], stops, watch)
            answers |= dict(zip(batch, made, strict=True))
    return [answers[i] for i in range(len(prompts))]


def _batches(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], rooms: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Yield prompts that have the same room, those of like length together; alone where a batch would be read apart."""
    if longest_short(model.config) is not None:
        size = 1
    # One room a batch: generate() takes one limit for all of its rows, and padding on the left costs the work of
    # tokens.
    order = sorted(range(len(prompts)), key=lambda i: (rooms[i], len(prompts[i])))
    for _, alike in groupby(order, key=lambda i: rooms[i]):
        group = list(alike)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _generated(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int, stops: Sequence[int], watch: _Watch
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    generate: Any = model.generate  # its types leave out what it takes
    with quiet():
        # Positions follow from the mask, so padding moves none of them.
        made = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=likeliest(room, stops),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    answers: list[list[int]] = made[:, longest:].tolist()
    # Up to the first stop, itself included: what follows is padding, as a batch goes on until its last row has ended.
    ends = [next((i for i, token in enumerate(row) if token in stops), len(row) - 1) for row in answers]
    return [row[: end + 1] for row, end in zip(answers, ends, strict=True)]


class _Watch(StoppingCriteria):
    """Stops no answer: it tells how far a batch is, and heeds a user who asks to stop."""

    def __init__(self, context: Context, before: int, size: int, total: int, room: int) -> None:
        self._context, self._before, self._size, self._total, self._room = context, before, size, total, room
        self._steps = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Whether each answer is at its end: none is."""
        del scores
        self._context.check_stop()
        self._steps += 1
        done = self._before + self._size * min(self._steps / self._room, 1.0)
        self._context.progress(round(done, 2), self._total, "prompts")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
