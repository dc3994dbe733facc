"""What base and composed model answer to the same prompts, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.sample.read import read_samples, shortened, spread
from dem_build.report.html.blocks import Block, Exchanges, Fold, Question, Section, ShownAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.actions.sample.read import Exchange
    from dem_build.report.inputs import ReportInputs

LONGEST = 700  # characters of a text that are shown


def samples(inputs: ReportInputs) -> Section | None:
    """A few prompts at first sight, spread over the datasets; all others when asked for."""
    found = inputs.results.get(read_samples)
    if not found:
        return None
    shown = spread(found)
    rest = [exchange for exchange in found if not any(exchange is one for one in shown)]
    of_data = any(exchange.reference is not None for exchange in found)
    asked = (
        "Prompts of test rows, which nothing was trained or chosen on, beside what the data answer there."
        if of_data
        else "Prompts that the recipe gives."
    )
    lead = f"{asked} Each answer is greedy, the likeliest token each time; … stands where it was cut off."
    blocks: list[Block] = [_questions(shown)]
    if rest:
        blocks.append(Fold(f"{len(rest)} more", [_questions(rest)]))
    return Section("answers", "Side by side", lead, blocks)


def _questions(exchanges: Sequence[Exchange]) -> Exchanges:
    return Exchanges([_question(exchange) for exchange in exchanges])


def _question(exchange: Exchange) -> Question:
    replies = [
        ShownAnswer(
            model,
            model,
            shortened(answer.text.strip(), LONGEST),
            cut=not answer.ended,
            agrees=exchange.agrees(model),
        )
        for model, answer in exchange.answers.items()
    ]
    if exchange.reference is not None:
        replies.append(
            ShownAnswer("reference", "in the data", shortened(exchange.reference.strip(), LONGEST))
        )
    return Question(exchange.dataset, shortened(exchange.asked.strip(), LONGEST), replies)


SECTIONS = (samples,)
