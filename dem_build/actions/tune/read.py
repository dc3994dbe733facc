"""What tuning found, with names: ω and their intervals, what each dataset gained, and what a user should be told."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build.actions.choose.read import read_choice
from dem_build.actions.choose.spec import LAYERS, SUM
from dem_build.json_text import text_at
from dem_build.report.inputs import reads
from dem_build.stats import FEW_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest
    from dem_build.report.inputs import BuildRecords

TUNE = "tune"
SEARCH = ("trace", "omega")
SEARCHES = {SUM: TUNE, LAYERS: f"{TUNE}:{LAYERS}"}
"""Model that may be chosen → the search that found its ω."""
SAME = 1e-6  # share by which two ways to compute a number may differ


@dataclass(frozen=True)
class Tuned:
    """ω of one vector.

    Attributes:
        omega: ω; where each layer has its own, their mean.
        low, high: 95 % interval of ω, of one for all layers also where each has its own; None where ω was given, and
            where rows that judge it are of one prompt.
        layers: Layer → ω, where each has its own.
        given: Whether the recipe says it.
    """

    omega: float
    low: float | None = None
    high: float | None = None
    layers: Mapping[str, float] = field(default_factory=dict)
    given: bool = False


@dataclass(frozen=True)
class Judged:
    """What a dataset or probe lost or gained on the rows that tuning used, in nats per token.

    Attributes:
        base, chosen: Loss of the base and of the chosen candidate.
        single: Loss of the dataset's own vector alone; None for a probe.
        gain: Gain recovered; None for what does not count.
        rows: Rows that were used.
    """

    base: float
    chosen: float
    single: float | None
    gain: float | None
    rows: int

    @property
    def floored(self) -> bool:
        """Whether the own vector alone gains less than its gain recovered is of: that has a floor, and says little."""
        if self.single is None or self.gain is None:
            return False
        return is_floored(self.base, self.single, self.chosen, self.gain)


@dataclass(frozen=True)
class Tuning:
    """A search for ω.

    Attributes:
        search, objective: As in the recipe.
        vectors: Name of a dataset or vector → its ω.
        judges: Name of a dataset or probe → what came of it.
        told: Sentences for the user.
        passes: Candidates that were measured.
        cost: Their cost in forward passes over all rows.
        slopes: Judge → vector → derivative of the judge's loss to the vector's ω, where the search ended.
        scores: Score of each candidate, which the search lowers.
        allowed: Of each candidate, whether it keeps the limits of all probes.
        uniform: That of equal ω; None where the search is not compared with them.
        granularity: As in the recipe. Of `layer`, passes, scores and slopes are still those of one ω a vector, on the
            rows that the search of one ω a layer may see.
        layered: Whether one ω a layer was searched: there may be too few rows to judge it.
    """

    search: str
    objective: str
    vectors: Mapping[str, Tuned]
    judges: Mapping[str, Judged]
    told: tuple[str, ...]
    passes: int
    cost: float
    slopes: Mapping[str, Mapping[str, float]]
    scores: tuple[float, ...] = ()
    allowed: tuple[bool, ...] = ()
    uniform: float | None = None
    granularity: str = "model"
    layered: bool = False

    def document(self) -> dict[str, JSON]:
        """The same as JSON, without what only the page draws."""
        return {
            "search": self.search,
            "objective": self.objective,
            "granularity": self.granularity,
            "candidates": self.passes,
            "forward_equivalents": self.cost,
            "vectors": {name: asdict(vector) for name, vector in self.vectors.items()},
            "judges": {name: asdict(judged) for name, judged in self.judges.items()},
            "slopes": {name: dict(row) for name, row in self.slopes.items()},
            "notes": list(self.told),
        }


def is_floored(base: float, single: float, loss: float, gain: float) -> bool:
    """Whether a gain recovered is of more than the own vector gains alone, which then says little.

    Args:
        base: Loss of the base.
        single: Loss of the own vector alone.
        loss: Loss of the model.
        gain: The model's gain recovered.
    """
    alone = base - single
    return alone <= 0 or (gain != 0 and (base - loss) / gain > alone * (1 + SAME))


def layers_of(vectors: Mapping[str, Tuned]) -> list[str]:
    """The layers that have ω of their own, in the model's order; none where each vector has one ω."""
    return list(dict.fromkeys(layer for tuned in vectors.values() for layer in tuned.layers))


def shown_score(objective: str, score: float) -> float:
    """A score as people read it: a loss as it is, a gain, which the search lowers the negative of, turned."""
    return score if objective == "mean" else -score


@reads("tuning", *SEARCH, document=Tuning.document, says="before")
def read_tuning(build: BuildRecords) -> Tuning | None:
    """What the search found whose ω the composed model has; None where it has none, or not yet.

    Raises:
        StoreError: The record of tuning is not what it should be.
    """
    choice = read_choice(build)
    search = TUNE if choice is None else SEARCHES.get(choice.chosen)
    return search_of(build, search) if search is not None else None


def search_of(build: BuildRecords, action: str) -> Tuning | None:
    """What a search for ω found, the recipe's own or a baseline's; see `read_tuning`."""
    return build.of(action, _tuning, "search for ω", "searches again")


def _tuning(build: BuildRecords, action: Action) -> Tuning:
    trace, omega = (build.document(action, output) for output in SEARCH)
    vectors = build.grouped(action, "delta")
    judges = build.grouped(action, "data/validation", "data/rows")
    said = {entry["vector"]: entry for entry in trace["vectors"]}
    # In the file, layers are in the order of their names; here, in the model's.
    found = {
        digest: {layer: one[layer] for layer in trace["layers"]} if isinstance(one, dict) else one
        for digest, one in omega["omega"].items()
    }
    given = {name: action.groups[name].get("omega") for name in vectors}
    alike = {n: [given[m] for m in vectors if vectors[m] == d] for n, d in vectors.items()}
    tuned = {n: _tuned(said[d], found[d], given[n], alike[n]) for n, d in vectors.items() if d in said}
    told = _findings(trace)
    if any(finding["what"] == "one_prompt" for finding in told):
        tuned = {n: replace(one, low=None, high=None) for n, one in tuned.items()}
    # A vector that a name of it gives an ω to has more than what was searched.
    searched = {name: one for name, one in tuned.items() if given[name] is None}
    about = {
        "objective": trace["objective"],
        "searched": "tuned ω, one a vector," if layers_of(tuned) else "tuned ω",
    }
    findings = [
        f | {"place": {n: _part(f["omegas"][vectors[n]], alike[n]) for n in searched}} if "omegas" in f else f
        for f in told
    ]
    # Two datasets may have the same rows, and vectors of their own.
    entries = {
        name: entry
        for entry in trace["judges"]
        for name in judges
        if (judges[name], vectors.get(name)) == (entry["rows"], entry["vector"])
    }
    return Tuning(
        search=text_at(trace, "search"),
        objective=text_at(trace, "objective"),
        vectors=tuned,
        judges={name: _judged(entries[name]) for name in judges if name in entries},
        # Judges of the same rows may be told the same.
        told=tuple(dict.fromkeys(_sentence(f | about, vectors, searched, judges) for f in findings)),
        passes=len(trace["passes"]),
        cost=build.records[action.name].amount("forward_equivalents") or 0.0,
        slopes=_slopes(trace, vectors, judges),
        scores=tuple(_finite(one["score"]) for one in trace["passes"]),
        # Searches before `tune` 4 do not say.
        allowed=tuple(bool(one.get("keeps_limits", True)) for one in trace["passes"]),
        uniform=_finite(trace["uniform"]["score"]) if trace.get("uniform") else None,
        granularity=str(action.params.get("granularity", "model")),
        layered=bool(trace.get("layerwise")),
    )


def _findings(trace: JSON) -> list[dict[str, JSON]]:
    """What is told of a search. Where a loss that counts or is limited is of one prompt, no interval is.

    How much a loss varies from prompt to prompt is not known of one, and the search's blocks, of which that prompt is
    in one, let it add nothing to an interval: unknown is not zero.
    """
    heeded = {e["rows"] for e in trace["judges"] if e.get("importance") or e.get("limit") is not None}
    found = [
        {**f, "what": "one_prompt"}
        if f["what"] == "few_rows" and f["judge"] in heeded and _prompts(f) < 2
        else f
        for f in trace["findings"]
    ]
    unknown = any(f["what"] == "one_prompt" for f in found)
    return [f for f in found if not (unknown and f["what"] == "like_uniform")]


def _prompts(finding: Mapping[str, JSON]) -> float:
    return float(finding.get("prompts", finding["used"]))


def _finite(score: JSON) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a score of {score}")
    return float(score)


def _tuned(
    entry: Mapping[str, JSON], omega: JSON, given: float | None, alike: Sequence[float | None]
) -> Tuned:
    """The ω of one name of a vector: what the recipe gives it, or its part of what the given ones leave.

    Args:
        entry: What the search says of the vector.
        omega: The vector's ω, of all of its names together.
        given: The name's ω in the recipe; None where it was searched.
        alike: Those of all names of the vector.
    """
    if given is not None:
        return Tuned(float(given), given=True)
    layers = {layer: _part(value, alike) for layer, value in omega.items()} if isinstance(omega, dict) else {}
    mean = sum(layers.values()) / len(layers) if layers else _part(omega, alike)
    low, high = (_part(entry[bound], alike) if entry["tuned"] else None for bound in ("low", "high"))
    return Tuned(mean, low, high, layers)


def _part(whole: JSON, alike: Sequence[float | None]) -> float:
    """What one name of a vector has of its ω, where that is searched: an equal share of what is not given."""
    fixed = math.fsum(value for value in alike if value is not None)
    return (float(whole) - fixed) / alike.count(None)


def _judged(entry: Mapping[str, JSON]) -> Judged:
    single, gain = (None if entry[name] is None else float(entry[name]) for name in ("single", "gain"))
    return Judged(float(entry["base"]), float(entry["chosen"]), single, gain, int(entry["used"]))


def _slopes(
    trace: JSON, vectors: Mapping[str, Digest], judges: Mapping[str, Digest]
) -> dict[str, dict[str, float]]:
    if trace["slopes"] is None:
        return {}
    free = [entry["vector"] for entry in trace["vectors"] if entry["tuned"]]
    rows = {e["rows"]: row for e, row in zip(trace["judges"], trace["slopes"], strict=True)}
    return {
        judge: {v: float(rows[digest][free.index(d)]) for v, d in vectors.items() if d in free}
        for judge, digest in judges.items()
        if digest in rows
    }


def _sentence(
    finding: Mapping[str, JSON],
    vectors: Mapping[str, Digest],
    searched: Mapping[str, Tuned],
    judges: Mapping[str, Digest],
) -> str:
    """A finding as a sentence with today's names: of a vector those that were searched, with the ω of each."""
    subject, own = finding.get("vector", finding.get("judge")), finding.get("own")
    parts = {name: one.omega for name, one in searched.items() if vectors[name] == subject}
    judging = [n for n, digest in judges.items() if digest == subject and own in (None, vectors.get(n))]
    part = {"omega": next(iter(parts.values()))} if parts else {}
    return SENTENCES[finding["what"]](", ".join(parts or judging) or str(subject)[:12], {**finding, **part})


def _shown(finding: Mapping[str, JSON], name: str) -> float:
    return shown_score(finding["objective"], finding[name])


def _of_prompts(finding: Mapping[str, JSON]) -> str:
    return f", of {finding['prompts']} prompts" if "prompts" in finding else ""


OBJECTIVES = {"gain": "mean gain recovered", "mean": "mean loss", "worst": "gain of the worst dataset"}

SENTENCES: dict[str, Callable[[str, Mapping[str, JSON]], str]] = {
    "on_upper_bound": lambda who, f: (
        f"ω of {who} ended on the upper bound, {f['omega']:g}: raise `bounds` in [tune], or train it for longer"
    ),
    "on_lower_bound": lambda who, f: f"ω of {who} ended on the lower bound, {f['omega']:g}",
    "does_not_help": lambda who, _: f"{who} got ω = 0: at these importances its vector helps nobody enough",
    "worse_than_base": lambda who, f: (
        f"{who} ends worse than the base: loss {f['loss']:.3f}, base {f['base']:.3f} "
        "(raise its importance, or protect it with max_loss_increase)"
    ),
    "limit_not_held": lambda who, f: (
        f"the limit of {who} is not kept: loss {f['loss']:.3f}, allowed {f['base'] + f['limit']:.3f}"
    ),
    "own_vector_does_not_help": lambda who, f: (
        f"the vector of {who} does not lower its own validation loss: {f['single']:.3f}, base {f['base']:.3f}"
    ),
    "own_gain_is_little": lambda who, f: (
        f"the vector of {who} alone gains {f['gained']:.2g} nats, less than two standard errors or a thousandth of "
        f"the base's loss: its gain recovered is of {f['scale']:.2g}, and small changes of its loss weigh much (an "
        'importance of 0 in [tune] leaves it out; objective = "mean" weighs all losses alike)'
    ),
    "rows_left_out": lambda who, f: (
        f"{f['count']} validation rows of {who} were left out, as a vector was trained on their prompts; "
        f"{f['used']} were used"
    ),
    "like_uniform": lambda _, f: (
        f"the {f['searched']} cannot be told from equal ω: their lead is {f['lead'][0]:.3f} to {f['lead'][1]:.3f} "
        "(95 %); more validation rows would tell"
    ),
    "not_converged": lambda _, f: f"the search stopped after {f['passes']} candidates, before it settled",
    "starts_disagree": lambda _, f: (
        f"ω that differ by up to {f['spread']:g} do as well: these validation rows do not settle them"
    ),
    "other_optimum": lambda _, f: (
        f"another optimum {'cannot be told from this one' if f['unsure'] else 'is nearly as good'}: "
        + ", ".join(f"ω {name} {omega:.3f}" for name, omega in f["place"].items())
        + f" ({OBJECTIVES[f['objective']]} {_shown(f, 'score'):.3f}, here {_shown(f, 'chosen'):.3f})"
    ),
    "few_rows": lambda who, f: (
        f"validation rows of {who} that judge ω: only {f['used']}{_of_prompts(f)}; what they tell of it, intervals "
        "included, is little"
    ),
    "one_prompt": lambda who, f: (
        f"ω has no intervals, and its lead over equal ω none: validation rows of {who} that judge it are of one prompt "
        f"({f['used']} used), of which nobody knows how another one's loss would differ; hold out {FEW_ROWS} prompts "
        "or more, 2 at least"
    ),
    "layers_not_judged": lambda _, __: (
        "there are too few validation rows, or too few prompts in them, to judge one ω a layer: one ω a vector was kept"
    ),
    "layers_not_converged": lambda _, f: (
        f"the search of one ω a layer stopped after {f['passes']} candidates, before it settled"
    ),
    "layers_not_better": lambda _, __: (
        "one ω a layer did not win on rows that its search did not see: one ω a vector was kept"
    ),
}


READERS = (read_tuning,)
