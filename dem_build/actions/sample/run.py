"""Kind `sample`: what a model answers to a few prompts, word for word.

Prompts are held-out rows of a dataset as they were prepared, or texts of the recipe, which are put in the prepared
base's chat template. Answers are greedy: the likeliest token each time, from the same parameters as held-out losses.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dem_build.actions.sample.greedy import greedy_answers
from dem_build.actions.sample.prompts import continued, of_rows, of_texts
from dem_build.data.arrays import TokenRows
from dem_build.digest import canonical
from dem_build.errors import EvaluationError
from dem_build.json_text import parse_json
from dem_build.model.context_length import most_tokens, refuse_longer
from dem_build.model.evaluated import OUT_OF_MEMORY_HINT, evaluated_model, surroundings
from dem_build.model.out_of_memory import memory_told
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.actions.sample.prompts import Prompt
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

__all__ = ["FORMAT", "run"]

FORMAT = "sample/1"


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
    prompts = _prompts(inputs, params["prompts"], tokenizer)
    rooms = _rooms(prompts, params["max_new_tokens"], most_tokens(config))
    stops = _stops(tokenizer, inputs.paths["model/generation_config"])
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


def _prompts(inputs: Inputs, wanted: JSON, tokenizer: BaseTokenizer) -> list[Prompt]:
    if isinstance(wanted, list):
        return of_texts(tokenizer, wanted)
    rows = TokenRows.open(inputs.paths["data/rows"])
    refuse_longer(rows, inputs.paths["model/config"])
    return of_rows(tokenizer, rows, wanted)


def _rooms(prompts: Sequence[Prompt], wanted: int, most: int | None) -> list[int]:
    """Return the most tokens of each answer: prompt and answer have to fit in what the model takes."""
    rooms = [wanted if most is None else min(wanted, most - len(p.ids)) for p in prompts]
    for prompt, room in zip(prompts, rooms, strict=True):
        if room < 1:
            raise EvaluationError(
                f"the model takes {most} tokens, and the prompt {prompt.asked[:40]!r} has {len(prompt.ids)}",
                hint="shorten it in `prompts` of [evaluate]",
            )
    return rooms


def _stops(tokenizer: BaseTokenizer, generation_config: Path) -> list[int]:
    """Return the tokens that end an answer: the one that training ends rows with first, then the base's others."""
    said = parse_json(generation_config.read_bytes()).get("eos_token_id")
    more = said if isinstance(said, list) else [said]
    return list(dict.fromkeys([tokenizer.eos_id, *(t for t in more if isinstance(t, int))]))


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
