"""What the composed model is compared with: how each baseline was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.html.blocks import NONE, Block, Cell, Notes, Section, Table
from dem_build.report.quantities import count

if TYPE_CHECKING:
    from dem_build.report.baselines import Contender
    from dem_build.report.material import Material

__all__ = ["baselines"]


def baselines(material: Material) -> Section | None:
    """Each baseline with its tokens and its ω, and what its search has to say."""
    found = material.results.baselines
    if not found:
        return None
    header = ["baseline", "method", "made of", "ω", "tokens", "vectors together"]
    body = [[Cell(name, strong=True), *_cells(contender)] for name, contender in found.items()]
    note = (
        "Tokens are what the mixture's training read; of the vectors, what all their trainings read together."
    )
    lead = "Models that the same data could have been made into. How well they do is in the tables of losses and tasks."
    told = [f"{name}: {sentence}" for name, contender in found.items() for sentence in contender.told]
    blocks: list[Block] = [Table(header, body, 2, note=note)]
    return Section("baselines", "Baselines", lead, [*blocks, *([Notes(told)] if told else [])])


def _cells(contender: Contender) -> list[Cell]:
    mixture = contender.mixture
    shares = contender.shares or ("vectors" if contender.method != "mixing" else "")
    counts = (None, None) if mixture is None else (mixture.tokens, mixture.vectors)
    tokens = [NONE if number is None else Cell(count(number)) for number in counts]
    return [Cell(contender.method), Cell(shares), Cell(contender.weights), *tokens]
