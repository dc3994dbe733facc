"""What the baselines of a build are, as recorded: of which tokens, and with which ω or scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dem_build.actions.tune.read import TUNE, read_tuning
from dem_build.json_text import MALFORMED, quantity
from dem_build.report.quantities import between, count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dem_build.action import Action
    from dem_build.actions.tune.read import Tuned, Tuning
    from dem_build.digest import JSON, Digest
    from dem_build.report.recorded import Recorded
    from dem_build.store import Record

__all__ = ["Contender", "Mixture", "read_baselines"]


@dataclass(frozen=True)
class Mixture:
    """What a mixture was trained on.

    Attributes:
        planned: Tokens that were planned for.
        compared: Tokens that the datasets' own trainings were planned to read; None where it has a length of its own.
        tokens: Tokens that its training read; None while it is not trained.
        vectors: Tokens that the trainings of all the datasets' vectors read, None while one is not trained.
        shares: Dataset → its share of the mixture's tokens.
        epochs: Dataset → how often its train split is in the mixture.
    """

    planned: int
    compared: int | None
    tokens: int | None
    vectors: int | None
    shares: Mapping[str, float]
    epochs: Mapping[str, float]


@dataclass(frozen=True)
class Contender:
    """One baseline.

    Attributes:
        method: As in the recipe: `mixing`, `interpolation`, `uniform` or `single`.
        omega: Vector → ω that it is made with; a mixture's own vector has its name. Empty while a search has not run.
        intervals: Vector → 95 % interval, of ω that were searched.
        mixture: Of a mixture.
        told: Sentences for the user.
    """

    method: str
    omega: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mixture: Mixture | None = None
    told: tuple[str, ...] = ()

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        found = asdict(self)
        return {name: value for name, value in found.items() if value or name in ("method", "omega")}

    @property
    def weights(self) -> str:
        """The ω that it is made with, for people; of a single vector, that one's."""
        terms = [
            f"{name} {_weight(self, name)}" for name, w in self.omega.items() if w or self.method != "single"
        ]
        return ", ".join(terms) or ("0 of every vector: none helps alone" if self.omega else "")

    @property
    def shares(self) -> str:
        """What a mixture has of each dataset, for people; nothing of other baselines."""
        if self.mixture is None:
            return ""
        epochs = self.mixture.epochs
        return ", ".join(f"{n} {s:.0%} ({epochs[n]:.3g} epochs)" for n, s in self.mixture.shares.items())

    def sentences(self) -> Iterator[str]:
        """Yield what it is, for people."""
        if self.mixture is not None:
            yield _tokens(self.mixture)
            yield self.shares
        if self.weights:
            yield f"ω: {self.weights}"


def read_baselines(build: Recorded) -> dict[str, Contender]:
    """Return the baselines of a build, those that are not made yet as far as they are known.

    Raises:
        StoreError: The record of a search is not what it should be.
    """
    return {name: _contender(name, method, build) for name, method in build.graph.baselines.items()}


def _contender(name: str, method: str, build: Recorded) -> Contender:
    model = build.graph.actions.get(f"model:{name}")
    if model is None:  # a part of the graph was asked for
        return Contender(method)
    mixture = _mixture(name, build) if method == "mixing" else None
    if f"{TUNE}:{name}" not in build.graph.actions:
        return Contender(method, _given(model), mixture=mixture)
    tuning = read_tuning(build, f"{TUNE}:{name}")
    searched = _searched(tuning, model) if tuning else {}
    return Contender(
        method,
        {vector: found.omega for vector, found in searched.items()},
        {
            v: (f.low, f.high)
            for v, f in searched.items()
            if f.omega and f.low is not None and f.high is not None
        },
        mixture,
        tuning.told if tuning else (),
    )


def _given(model: Action) -> dict[str, float]:
    return {_vector(t.at.action): t.omega for t in model.takes if t.of == "delta" and t.omega is not None}


def _searched(tuning: Tuning, model: Action) -> dict[str, Tuned]:
    """Return the vectors that the baseline's model takes; the others of the search are its measure."""
    taken = [_vector(t.at.action) for t in model.takes if t.of == "delta"]
    return {name: tuning.vectors[name] for name in taken if name in tuning.vectors}


def _vector(action: str) -> str:
    return action.removeprefix("vector:")


def _mixture(name: str, build: Recorded) -> Mixture | None:
    """Return what a mixture was made of; None where it is not made, or its record does not say."""
    if f"data:{name}" not in build.records:
        return None
    try:
        return _mixed(name, build)
    except MALFORMED:  # only provenance tells
        return None


def _mixed(name: str, build: Recorded) -> Mixture:
    graph, records = build.graph, build.records
    made, action = records[f"data:{name}"].provenance, graph.actions[f"data:{name}"]
    trained = build.grouped(action, "data/train")
    named = {n: _part(made["parts"], digest, action.groups[n]) for n, digest in trained.items()}
    datasets = [a.name for a in graph if a.name.startswith("vector:") and a.kind.name == "finetune"]
    singles = [_seen(records, vector) for vector in datasets if _vector(vector) not in graph.baselines]
    return Mixture(
        planned=_count(made["planned_tokens"]),
        compared=None if made["compared_tokens"] is None else _count(made["compared_tokens"]),
        tokens=_seen(records, f"vector:{name}"),
        vectors=None if None in singles else sum(n for n in singles if n is not None),
        shares={dataset: float(part["share"]) for dataset, part in named.items()},
        epochs={dataset: float(part["epochs"]) for dataset, part in named.items()},
    )


def _part(parts: Sequence[Mapping[str, JSON]], train: Digest, said: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return what a dataset gave to a mixture; of two that have the same rows, each has the share that it asked for."""
    of_it = [part for part in parts if part["train"] == train]
    share = said.get("share")
    return min(of_it, key=lambda part: 0.0 if share is None else abs(part["share"] - share))


def _seen(records: Mapping[str, Record], vector: str) -> int | None:
    record = records.get(vector)
    return None if record is None else _count(record.provenance["tokens"]["seen"])


def _count(value: JSON) -> int:
    found = quantity(value)
    if found is None:
        raise ValueError(f"{value!r} is no number")
    return int(found)


def _tokens(mixture: Mixture) -> str:
    tokens = mixture.planned if mixture.tokens is None else mixture.tokens
    against = "" if mixture.vectors is None else f"; the vectors together read {count(mixture.vectors)}"
    own = " (its own budget)" if mixture.compared is None else ""
    return f"{count(tokens)} tokens{own}{against}"


def _weight(contender: Contender, name: str) -> str:
    low_high = contender.intervals.get(name)
    interval = "" if low_high is None else f" ({between(*low_high)})"
    return f"{contender.omega[name]:.4g}{interval}"
