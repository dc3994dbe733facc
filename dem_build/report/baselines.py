"""What the baselines of a build are, as recorded: of which tokens, and with which ω or scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dem_build.actions.tune.read import TUNE, search_of
from dem_build.json_text import MALFORMED, quantity
from dem_build.report.quantities import between, count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dem_build.digest import JSON, Digest
    from dem_build.report.inputs import BuildRecords
    from dem_build.store import Record


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
        stages: `trunk` and `heal`, where the recipe has them → the tokens that its training read beside those of the
            vectors, None while it is not trained.
    """

    planned: int
    compared: int | None
    tokens: int | None
    vectors: int | None
    shares: Mapping[str, float]
    epochs: Mapping[str, float]
    stages: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def told_shares(self) -> str:
        """What it has of each dataset, for people."""
        return ", ".join(f"{n} {s:.0%} ({self.epochs[n]:.3g} epochs)" for n, s in self.shares.items())


@dataclass(frozen=True)
class RecordedBaseline:
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
        """The same as JSON."""
        found = asdict(self)
        return {name: value for name, value in found.items() if value or name in ("method", "omega")}

    @property
    def weights(self) -> str:
        """The ω that it is made with, for people; of a single vector, that one's."""
        terms = []
        for name, omega in self.omega.items():
            interval = f" ({between(*self.intervals[name])})" if name in self.intervals else ""
            if omega or self.method != "single":
                terms.append(f"{name} {omega:.4g}{interval}")
        return ", ".join(terms) or ("0 of every vector: none helps alone" if self.omega else "")

    @property
    def shares(self) -> str:
        """What a mixture has of each dataset, for people; nothing of other baselines."""
        return "" if self.mixture is None else self.mixture.told_shares

    def sentences(self) -> Iterator[str]:
        """What it is, for people."""
        if (mixture := self.mixture) is not None:
            tokens = mixture.planned if mixture.tokens is None else mixture.tokens
            own = " (its own budget)" if mixture.compared is None else ""
            read = "" if mixture.vectors is None else f"; the vectors together read {count(mixture.vectors)}"
            stages = ((name, tokens) for name, tokens in mixture.stages.items() if tokens is not None)
            read += "".join(f", {name} {count(tokens)}" for name, tokens in stages) if read else ""
            yield f"{count(tokens)} tokens{own}{read}"
            yield self.shares
        if self.weights:
            yield f"ω: {self.weights}"


def read_baselines(build: BuildRecords) -> dict[str, RecordedBaseline]:
    """The baselines of a build, those that are not made yet as far as they are known.

    Raises:
        StoreError: The record of a search is not what it should be.
    """
    return {name: _baseline(name, method, build) for name, method in build.graph.baselines.items()}


def _baseline(name: str, method: str, build: BuildRecords) -> RecordedBaseline:
    model = build.graph.actions.get(f"model:{name}")
    if model is None:  # a part of the graph was asked for
        return RecordedBaseline(method)
    mixture = mixture_of(name, build) if method == "mixing" else None
    if f"{TUNE}:{name}" not in build.graph.actions:
        given = [t for t in model.takes if t.of == "delta"]
        omega = {_vector(t.at.action): t.omega for t in given if t.omega is not None}
        return RecordedBaseline(method, omega, mixture=mixture)
    tuning = search_of(build, f"{TUNE}:{name}")
    if tuning is None:
        return RecordedBaseline(method, mixture=mixture)
    # What the search knows of other vectors is its measure, and no part of the model.
    taken = [_vector(t.at.action) for t in model.takes if t.of == "delta"]
    found = {vector: tuning.vectors[vector] for vector in taken if vector in tuning.vectors}
    omega = {vector: one.omega for vector, one in found.items()}
    intervals = {
        vector: (one.low, one.high)
        for vector, one in found.items()
        if one.omega and one.low is not None and one.high is not None
    }
    return RecordedBaseline(method, omega, intervals, mixture, tuning.told)


def _vector(action: str) -> str:
    return action.removeprefix("vector:")


def mixture_of(name: str, build: BuildRecords) -> Mixture | None:
    """What a mixture was made of: a baseline, the trunk, or healing.

    None where it is not made, or its record does not say: only provenance tells.
    """
    if f"data:{name}" not in build.records:
        return None
    graph, records = build.graph, build.records
    action = graph.actions[f"data:{name}"]
    datasets = [a.name for a in graph if a.name.startswith("vector:") and a.kind.name == "finetune"]
    try:
        made = records[action.name].provenance
        named = {
            dataset: _part(made["parts"], digest, action.groups[dataset])
            for dataset, digest in build.grouped(action, "data/train").items()
        }
        own = [vector for vector in datasets if _vector(vector) not in graph.mixed]
        return Mixture(
            planned=_count(made["planned_tokens"]),
            compared=None if made["compared_tokens"] is None else _count(made["compared_tokens"]),
            tokens=_tokens_read(records, f"vector:{name}"),
            vectors=_together(records, own),
            shares={dataset: float(part["share"]) for dataset, part in named.items()},
            epochs={dataset: float(part["epochs"]) for dataset, part in named.items()},
            stages={stage: _tokens_read(records, f"vector:{stage}") for stage in graph.stages},
        )
    except MALFORMED:
        return None


def _part(parts: Sequence[Mapping[str, JSON]], train: Digest, said: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """What a dataset gave to a mixture; of two that have the same rows, each has the share that it asked for."""
    of_it = [part for part in parts if part["train"] == train]
    share = said.get("share")
    return min(of_it, key=lambda part: 0.0 if share is None else abs(part["share"] - share))


def _together(records: Mapping[str, Record], trainings: Sequence[str]) -> int | None:
    """The tokens that trainings read together; None while one is not recorded."""
    read = [_tokens_read(records, training) for training in trainings]
    return None if None in read else sum(n for n in read if n is not None)


def _tokens_read(records: Mapping[str, Record], vector: str) -> int | None:
    record = records.get(vector)
    return None if record is None else _count(record.provenance["tokens"]["seen"])


def _count(value: JSON) -> int:
    found = quantity(value)
    if found is None:
        raise ValueError(f"{value!r} is no number")
    return int(found)
