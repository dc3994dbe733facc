"""What base and composed model answer to the same prompts, side by side, with today's names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from dem_build.actions.sample.spec import KIND
from dem_build.json_text import text_at
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.action import Action
    from dem_build.report.inputs import BuildRecords

ANSWERS = "answers"
"""The output that is read."""
SHOWN = 10
"""How many prompts a report shows at first sight."""


@dataclass(frozen=True)
class SampledAnswer:
    """What a model answered; `ended`: whether it came to an end by itself."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Exchange:
    """A prompt and what was answered.

    Attributes:
        dataset: The dataset whose test row it is; empty where the recipe gives the prompt.
        reference: What the data answer; None where they say nothing.
        answers: Model → its answer.
    """

    dataset: str
    asked: str
    reference: str | None
    answers: Mapping[str, SampledAnswer]

    def agrees(self, model: str) -> bool:
        """Whether a model answered just what the data do, but for blanks around it."""
        return self.reference is not None and self.answers[model].text.strip() == self.reference.strip()


@reads("samples", ANSWERS, document=lambda found: [asdict(one) for one in found])
def read_samples(build: BuildRecords) -> tuple[Exchange, ...]:
    """All prompts with their answers, dataset by dataset, in an order that does not change.

    Raises:
        StoreError: A record is not what it should be.
    """
    found: dict[str, dict[str, list[Exchange]]] = {}
    for action in build.graph:
        if action.kind is KIND and action.evaluation is not None:
            told = build.of(action.name, _told, "answers to prompts", "asks again")
            if told is not None:
                found.setdefault(action.evaluation.task, {})[action.evaluation.model] = told
    exchanges = []
    for models in found.values():
        # All were asked the same; the base first, as it is in time.
        for i, one in enumerate(next(iter(models.values()))):
            answers = {model: told[i].answers[model] for model, told in models.items() if i < len(told)}
            exchanges.append(replace(one, answers=answers))
    return tuple(exchanges)


def _told(build: BuildRecords, action: Action) -> list[Exchange]:
    """What one model answered."""
    assert action.evaluation is not None
    dataset = action.evaluation.task.partition(":")[2]
    found = []
    for one in build.document(action, ANSWERS)["answers"]:
        reference = None if one["reference"] is None else text_at(one, "reference")
        answer = SampledAnswer(text_at(one, "answer"), bool(one["ended"]))
        found.append(Exchange(dataset, text_at(one, "asked"), reference, {action.evaluation.model: answer}))
    return found


def spread(exchanges: Iterable[Exchange], most: int = SHOWN) -> list[Exchange]:
    """At most so many exchanges, as evenly from all datasets as can be, in their own order."""
    every = list(exchanges)
    datasets: dict[str, list[int]] = {}
    for place, exchange in enumerate(every):
        datasets.setdefault(exchange.dataset, []).append(place)
    # In turns, so that a dataset of few prompts gives all of its own and the others fill the rest.
    turns = (place for turn in zip_longest(*datasets.values()) for place in turn if place is not None)
    return [every[place] for place in sorted(list(turns)[:most])]


def shortened(text: str, most: int) -> str:
    """A text with its middle left out where it is longer than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


READERS = (read_samples,)
