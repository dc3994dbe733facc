"""What matching came to, with names: each vector's importance and rows, and how far the model is from its single."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dem_build.action import MODEL
from dem_build.actions.choose.read import read_choice
from dem_build.actions.choose.spec import MATCH
from dem_build.actions.match.spec import KIND
from dem_build.actions.weigh.spec import KIND as WEIGH
from dem_build.json_text import quantity, text_at
from dem_build.report.inputs import reads
from dem_build.workload import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

    Place: TypeAlias = tuple[str, str | None]
    """A vector's digest, and that of its sample."""


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
class WeighedPass:
    """One matching of a search for importances.

    Attributes:
        importances: Name of a vector → importance.
        score: Of the objective, where less is better.
        lead: By how much the kept one's score is better.
        stderr: Its standard error, paired by rows; None where there are too few to tell.
    """

    importances: Mapping[str, float]
    score: float
    lead: float
    stderr: float | None


@dataclass(frozen=True)
class WeighedSearch:
    """A search for importances; `passes` are its matchings in order, `kept` the place of the one that is the model."""

    objective: str
    passes: tuple[WeighedPass, ...]
    kept: int


@dataclass(frozen=True)
class MatchedModel:
    """A model that was composed by matching.

    Attributes:
        vectors: Name of a vector → what it had to say.
        params: As in the recipe: `rows`, `ridge`, `prior`.
        seconds: How long it took; None where that is not recorded.
        saliency: Whether tokens weigh by theirs.
        search: How its importances were found; None where they were given.
    """

    vectors: Mapping[str, MatchedVector]
    params: Mapping[str, float | str] = field(default_factory=dict)
    seconds: float | None = None
    saliency: bool = False
    search: WeighedSearch | None = None

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
    if action.kind not in (KIND, WEIGH):
        return None
    vectors, samples = build.grouped(action, "delta"), build.grouped(action, SAMPLE)
    known = {name: (digest, samples.get(name)) for name, digest in vectors.items()}
    given = {name: action.groups[name].get("importance") for name in known}
    terms = _named(record.provenance["terms"], known, given)
    return MatchedModel(
        {name: _vector(terms[name]) for name in known},
        {name: _param(action.params[name]) for name in ("rows", "ridge", "prior")},
        record.amount("seconds"),
        any(taken.of == "saliency" for taken in action.takes),
        _search(record.provenance["search"], known, given) if action.kind is WEIGH else None,
    )


def _param(value: JSON) -> float | str:
    return value if isinstance(value, str) else float(value)


def _named(
    terms: Sequence[Mapping[str, JSON]], known: Mapping[str, Place], given: Mapping[str, float | None]
) -> dict[str, Mapping[str, JSON]]:
    """Name → what is said of it; of two that are the same vector and rows, each has the importance it was given."""
    left = list(terms)
    found = {}
    for name in sorted(known, key=lambda name: given[name] is None):
        asked = [t for t in left if (t["vector"], t["sample"]) == known[name]]
        of_it = [t for t in asked if given[name] in (None, t["importance"])]
        found[name] = of_it[0]
        left.remove(of_it[0])
    return found


def _search(
    said: Mapping[str, JSON], known: Mapping[str, Place], given: Mapping[str, float | None]
) -> WeighedSearch:
    tried = [one["importances"] for one in said["passes"]]
    columns = [
        {
            "place": place,
            "vector": vector["vector"],
            "sample": vector["sample"],
            "importance": tried[0][place],
        }
        for place, vector in enumerate(said["vectors"])
    ]
    found = _named(columns, known, given)
    at = {name: found[name]["place"] for name in known}
    passes = tuple(
        WeighedPass(
            {name: float(one["importances"][place]) for name, place in at.items()},
            float(one["score"]),
            float(one["lead"]),
            quantity(one["stderr"]),
        )
        for one in said["passes"]
    )
    kept = int(said["kept"])
    if not 0 <= kept < len(passes):
        raise ValueError(f"matching {kept} of {len(passes)}")
    return WeighedSearch(text_at(said, "objective"), passes, kept)


def _vector(term: Mapping[str, JSON]) -> MatchedVector:
    residual = quantity(term["residual"])
    return MatchedVector(float(term["importance"]), int(term["rows"]), int(term["tokens"]), residual)


READERS = (read_match,)
