"""Which of some models the composed one is, with names: scores, and by how much it leads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build.actions.choose.spec import KIND
from dem_build.actions.compose.methods import METHODS
from dem_build.actions.compose.methods.auto import AUTO
from dem_build.json_text import quantity, text_at
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.actions.compose.methods import Method
    from dem_build.digest import JSON
    from dem_build.recipe import Recipe
    from dem_build.report.inputs import BuildRecords


@dataclass(frozen=True)
class Candidate:
    """A model that was chosen from.

    Attributes:
        score: Of the objective, where less is better.
        lead: By how much the chosen one's score is better.
        low, high: 95 % interval of that, paired by rows; None where there are too few rows to tell.
        keeps_limits: Whether it keeps the limits of all probes.
        losses: Dataset or probe → mean loss per token on the rows that judge.
        gains: Dataset → gain recovered.
    """

    score: float
    lead: float
    low: float | None
    high: float | None
    keeps_limits: bool
    losses: Mapping[str, float]
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """A choice.

    Attributes:
        chosen: The model's name.
        objective: As `[tune]` has it.
        candidates: Name → what was measured of it.
        rows: Dataset or probe → rows that judged.
    """

    chosen: str
    objective: str
    candidates: Mapping[str, Candidate]
    rows: Mapping[str, int]

    @property
    def second(self) -> tuple[str, Candidate]:
        """The best of the others."""
        others = [(name, one) for name, one in self.candidates.items() if name != self.chosen]
        return min(others, key=lambda other: (not other[1].keeps_limits, other[1].score))


@reads("choice", document=asdict, says="before")
def read_choice(build: BuildRecords) -> Choice | None:
    """Which model was chosen; None where nothing is chosen, or not yet.

    Raises:
        StoreError: The record is not what it should be.
    """
    if build.graph.candidates:
        return build.of(build.graph.composing, _choice, "choice of a model", "chooses again")
    return None


def _choice(build: BuildRecords, action: Action) -> Choice | None:
    if action.kind is not KIND:
        return None
    said = build.records[action.name].provenance
    rows, vectors = build.grouped(action, "data/validation", "data/rows"), build.grouped(action, "delta")
    places = {(judge["rows"], judge["vector"]): place for place, judge in enumerate(said["judges"])}
    at = {name: places[of] for name in rows if (of := (rows[name], vectors.get(name))) in places}
    found = {one["name"]: _candidate(one, at, vectors) for one in said["candidates"]}
    chosen = text_at(said, "chosen")
    if chosen not in found or chosen not in AUTO.candidates:
        raise ValueError(f"{chosen} is none of {sorted(found)}")
    return Choice(
        chosen,
        text_at(said, "objective"),
        found,
        {name: int(said["judges"][place]["used"]) for name, place in at.items()},
    )


def _candidate(one: Mapping[str, JSON], at: Mapping[str, int], vectors: Mapping[str, str]) -> Candidate:
    return Candidate(
        float(one["score"]),
        float(one["lead"]),
        quantity(one["low"]),
        quantity(one["high"]),
        bool(one["keeps_limits"]),
        {name: float(one["losses"][place]) for name, place in at.items()},
        {name: float(one["gains"][place]) for name, place in at.items() if name in vectors},
    )


def method_of(recipe: Recipe, choice: Choice | None) -> Method:
    """The way in which the composed model was made: the recipe's, or that of the model that was chosen."""
    return METHODS[recipe.compose.method if choice is None else AUTO.candidates[choice.chosen]]


READERS = (read_choice,)
