"""What a search is recorded as: its trace, and what a user should be told, by digests and never by names.

A finding is `{"what": WORD, "vector" or "judge": DIGEST, …}`, with `"own"` where it is of a judge's own vector;
`actions.tune.read` has a sentence for each word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from dem_build.search import spread
from dem_build.search.problem import ratio_stderr
from dem_build.search.surrogate import Surrogate
from dem_build.search.trust_region import NEARLY
from dem_build.stats import FEW_ROWS, SURE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.actions.tune.landscape import Chosen, Landscape, Refined, Space
    from dem_build.digest import JSON
    from dem_build.search import Found, Intervals, Sample, SearchProblem

FORMAT = "trace/1"
DISAGREE = 0.1  # of ω: starts that end further apart than this disagree


@dataclass(frozen=True)
class SearchOutcome:
    """All that a search came to."""

    landscape: Landscape
    found: Found
    uniform: Sample
    bounds: Intervals
    refined: Refined | None
    chosen: Chosen


def trace(outcome: SearchOutcome) -> dict[str, JSON]:
    """The search as a document: judges, vectors, every pass, what it came to. Less is better in scores."""
    landscape, found, bounds, refined = outcome.landscape, outcome.found, outcome.bounds, outcome.refined
    uniform, chosen, problem = outcome.uniform, outcome.chosen, landscape.problem
    return {
        "format": FORMAT,
        "search": landscape.params["search"],
        "objective": landscape.params["objective"],
        "reason": found.reason,
        "judges": [_judge(landscape, chosen, j) for j in range(len(landscape.passes.judges))],
        "vectors": _vectors(landscape.space, found, bounds),
        "layers": list(landscape.passes.layers),
        "score": problem.score(found.best),
        "uniform": {
            "omega": uniform.omega.tolist(),
            "score": problem.score(uniform),
            "lead": bounds.over_uniform,
        },
        "chosen_score": chosen.score,
        "ends": [{"omega": end.omega.tolist(), "score": problem.score(end)} for end in found.ends],
        "passes": [
            {
                "omega": sample.omega.tolist(),
                "losses": problem.losses(sample).tolist(),
                "score": problem.score(sample),
                "slopes": sample.slopes is not None,
                "keeps_limits": problem.objective.keeps_limits(problem.losses(sample)),
            }
            for sample in found.samples
        ],
        "slopes": _slopes(problem, found),
        "layerwise": None
        if refined is None
        else {
            "accepted": refined.accepted,
            "unseen_score": refined.score,
            "unseen_global_score": refined.global_score,
            "passes": len(refined.found.samples),
            "reason": refined.found.reason,
        },
        "findings": [
            *_of_vectors(landscape, found, chosen),
            *_of_judges(landscape, chosen),
            *_of_search(landscape, found, bounds),
            *_of_layers(landscape, refined),
        ],
    }


def _slopes(problem: SearchProblem, found: Found) -> JSON:
    """Derivatives of the losses at the best ω, [judges, ω]; None of a search that takes none."""
    if found.best.slopes is not None:
        return cast("JSON", problem.loss_slopes(found.best).tolist())
    if all(sample.slopes is None for sample in found.samples):
        return None
    # The last step was taken without, as the models knew where it led: they know these, too.
    return cast("JSON", Surrogate.fit(problem, found.samples).slopes(found.best.omega).tolist())


def _judge(landscape: Landscape, chosen: Chosen, j: int) -> dict[str, JSON]:
    judge, objective = landscape.passes.judges[j], landscape.objective
    losses = landscape.passes.losses(chosen.taken)
    vector = landscape.space.vector_of.get(judge.group.name)
    return {
        "rows": judge.digest,
        "vector": None if vector is None else list(landscape.space.deltas)[vector],
        "importance": float(objective.importance[j]),
        "limit": float(objective.limit[j]) if np.isfinite(objective.limit[j]) else None,
        "used": judge.used,
        "left_out": judge.left_out,
        "tokens": int(judge.tokens.sum()),
        "base": float(objective.base[j]),
        "single": None if vector is None else float(landscape.singles[j]),
        "chosen": float(losses[j]),
        "gain": float(objective.gains(losses)[j]) if objective.counted[j] else None,
    }


def _vectors(space: Space, found: Found, bounds: Intervals) -> list[dict[str, JSON]]:
    described = []
    for v, digest in enumerate(space.deltas):
        one: dict[str, JSON] = {"vector": digest, "tuned": v in space.free, "omega": float(space.fixed[v])}
        if v in space.free:
            place = space.free.index(v)
            one |= {
                "omega": float(found.best.omega[place]),
                "low": float(bounds.low[place]),
                "high": float(bounds.high[place]),
            }
        described.append(one)
    return described


def _of_vectors(landscape: Landscape, found: Found, chosen: Chosen) -> Iterator[dict[str, JSON]]:
    space, problem = landscape.space, landscape.problem
    names = list(space.deltas)
    for place, v in enumerate(space.free):
        if found.box is not None and not (found.box[0][place] or found.box[1][place]):
            continue  # it was not searched
        layers = chosen.taken.omega[v]
        about = {"vector": names[v], "omega": float(layers[0])}
        if (layers == space.fixed[v]).all():
            # Where another basin uses the vector, it is this optimum that does without it.
            if all(end.omega[place] == space.fixed[v] for end in found.ends):
                yield {"what": "does_not_help", **about}
        elif (layers >= problem.upper[place]).all():
            yield {"what": "on_upper_bound", **about}
        elif (layers <= problem.lower[place]).all():
            yield {"what": "on_lower_bound", **about}


def _of_judges(landscape: Landscape, chosen: Chosen) -> Iterator[dict[str, JSON]]:
    passes, objective = landscape.passes, landscape.objective
    losses, base = passes.losses(chosen.taken), objective.base
    passed = objective.passed(losses)
    # Paired by blocks: base and model read the same rows, so the error of the difference is far below either's own.
    errors = ratio_stderr(chosen.taken.nll - landscape.base.nll, passes.counted)
    for j, judge in enumerate(passes.judges):
        about = {"judge": judge.digest, "loss": float(losses[j]), "base": float(base[j])}
        if passed[j]:
            yield {"what": "limit_not_held", **about, "limit": float(objective.limit[j])}
        elif losses[j] - base[j] > SURE * errors[j]:
            yield {"what": "worse_than_base", **about}
        if judge.group.name in landscape.space.vector_of:
            yield from _of_single(landscape, j, about)
        if judge.left_out:
            yield {"what": "rows_left_out", **about, "count": judge.left_out, "used": judge.used}
        if (prompts := judge.prompts) < FEW_ROWS:
            repeated = {"prompts": prompts} if prompts < judge.used else {}
            yield {"what": "few_rows", **about, "used": judge.used, **repeated}


def _of_single(landscape: Landscape, j: int, about: dict[str, JSON]) -> Iterator[dict[str, JSON]]:
    vector = landscape.space.vector_of[landscape.passes.judges[j].group.name]
    about = {**about, "own": list(landscape.space.deltas)[vector]}
    objective, single = landscape.objective, float(landscape.singles[j])
    gained, scale = float(objective.base[j]) - single, float(objective.scale[j])
    if gained <= 0:
        yield {"what": "own_vector_does_not_help", **about, "single": single}
    elif objective.counted[j] and objective.kind != "mean" and gained < scale:
        yield {"what": "own_gain_is_little", **about, "gained": gained, "scale": scale}


def _of_search(landscape: Landscape, found: Found, bounds: Intervals) -> Iterator[dict[str, JSON]]:
    # With a single vector, equal ω is ω = 1, which is no alternative to a search.
    if (
        found.box is None
        and bounds.over_uniform is not None
        and len(landscape.space.free) > 1
        and bounds.over_uniform[0] <= 0
    ):
        yield {"what": "like_uniform", "lead": list(bounds.over_uniform)}
    if found.reason == "passes" and landscape.params["search"] != "grid":
        yield {"what": "not_converged", "passes": len(found.samples)}
    yield from _of_ends(landscape, found)
    apart = spread(landscape.problem, found) if found.box is None else 0.0
    if apart > DISAGREE:
        yield {"what": "starts_disagree", "spread": round(apart, 3)}


def _of_ends(landscape: Landscape, found: Found) -> Iterator[dict[str, JSON]]:
    """Yield the other optima that the rows cannot tell from the chosen one, or that are nearly as good."""
    problem, best = landscape.problem, found.best
    names = list(landscape.space.deltas)
    for end in found.ends[1:]:
        behind = problem.score(end) - problem.score(best)
        error = problem.lead_stderr(best, end)
        unsure = bool(np.isfinite(error) and behind <= SURE * error)
        if problem.objective.keeps_limits(problem.losses(end)) and (
            unsure or behind <= NEARLY * problem.gained(found.samples)
        ):
            yield {
                "what": "other_optimum",
                "objective": problem.objective.kind,
                "omegas": {names[v]: float(w) for v, w in zip(landscape.space.free, end.omega, strict=True)},
                "score": problem.score(end),
                "chosen": problem.score(best),
                "unsure": unsure,
            }


def _of_layers(landscape: Landscape, refined: Refined | None) -> Iterator[dict[str, JSON]]:
    if landscape.params["granularity"] != "layer":
        return
    if refined is None:
        yield {"what": "layers_not_judged"}
        return
    if not refined.accepted:
        yield {"what": "layers_not_better", "score": refined.score, "global_score": refined.global_score}
    if refined.found.reason == "passes":
        yield {"what": "layers_not_converged", "passes": len(refined.found.samples)}
