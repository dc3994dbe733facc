"""What matching came to, with names: each vector's importance and rows, and how far the model is from its single."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dem_build.action import MODEL
from dem_build.actions.choose.read import read_choice
from dem_build.actions.choose.spec import MATCH
from dem_build.actions.match.spec import KIND, SAMPLE
from dem_build.json_text import quantity
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

__all__ = ["READERS", "MatchedModel", "MatchedVector", "read_match"]


@dataclass(frozen=True)
class MatchedVector:
    """One vector of a matched model.

    Attributes:
        importance: Of its dataset.
        rows: Training rows that layers were fitted on.
        tokens: Of these.
        residual: How far the model's last hidden states on them are from those of the vector's own model: the squared
            distance as a share of the squared length. None without rows.
    """

    importance: float
    rows: int
    tokens: int
    residual: float | None = None


@dataclass(frozen=True)
class MatchedModel:
    """A model that was composed by matching.

    Attributes:
        vectors: Name of a vector → what it had to say.
        params: As in the recipe: `rows`, `ridge`, `prior`.
        seconds: How long it took; None where that is not recorded.
    """

    vectors: Mapping[str, MatchedVector]
    params: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(vector.tokens for vector in self.vectors.values())

    @property
    def rowless(self) -> list[str]:
        """The vectors of which only the prior knows."""
        return [name for name, vector in self.vectors.items() if not vector.rows]


@reads("matching", document=asdict, says="before")
def read_match(build: BuildRecords) -> MatchedModel | None:
    """How the composed model was matched; None where it was made in another way, or not yet.

    Raises:
        StoreError: The record is not what it should be.
    """
    choice = read_choice(build)
    made = build.graph.composing if choice is None or choice.chosen != MATCH else f"{MODEL}:{MATCH}"
    return build.of(made, _matched, "matching", "matches again")


def _matched(build: BuildRecords, action: Action) -> MatchedModel | None:
    record = build.records[action.name]
    if action.kind is not KIND:
        return None
    vectors, samples = build.grouped(action, "delta"), build.grouped(action, SAMPLE)
    said = {(term["vector"], term["sample"], term["importance"]): term for term in record.provenance["terms"]}
    return MatchedModel(
        {
            name: _vector(said[vectors[name], samples.get(name), group["importance"]])
            for name, group in action.groups.items()
        },
        {name: float(action.params[name]) for name in ("rows", "ridge", "prior")},
        record.amount("seconds"),
    )


def _vector(term: Mapping[str, JSON]) -> MatchedVector:
    residual = quantity(term["residual"])
    return MatchedVector(float(term["importance"]), int(term["rows"]), int(term["tokens"]), residual)


READERS = (read_match,)
