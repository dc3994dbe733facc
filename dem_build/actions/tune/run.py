"""Kind `tune`: finds ω of the vectors on validation rows that no vector was trained on.

One model on the device becomes every candidate in turn, rounded as it would be published; `search` decides which.
What is found is written by the digests of the vectors: names and their order in a recipe reach no byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.tune.candidates import resident
from dem_build.actions.tune.judges import validation_judges
from dem_build.actions.tune.landscape import Landscape, Space, layerwise
from dem_build.actions.tune.omega import by_vector, write_omega
from dem_build.actions.tune.pass_log import write_passes
from dem_build.actions.tune.passes import Passes, begin
from dem_build.actions.tune.trace import SearchOutcome, trace
from dem_build.errors import EvaluationError
from dem_build.search import SEARCHES, intervals, search
from dem_build.search.searches import grid_levels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Search ω and write `omega`, `trace` and `passes`.

    Args:
        inputs: `base/weights` and `base/config`; a group for each dataset (`delta`, `data/validation`, `data/train`;
            its `importance`, and its `omega` where that is fixed), each other vector (`delta`; `omega`) and each probe
            (`data/rows`; its `limit`). A `reference` vector is no part of a candidate.
        params: `search`, `objective`, `granularity`, `max_samples`, `bounds`, and `dtype` of the composed model.
        context: Uses `machine.micro_batch` and `machine.eval_batch_size`; resumes from the passes in its work folder.

    Raises:
        EvaluationError: No rows to tune on, a loss that is not finite, or a grid of too many ω.
        CheckpointError: A vector of another base.
        InterruptedBuildError: The user asked to stop; the passes so far are kept.
    """
    log = begin(context)
    judged = validation_judges(inputs.groups, inputs.paths["base/config"], params["max_samples"])
    space = Space(inputs.groups)
    assert params["search"] in SEARCHES
    if params["search"] == "grid" and grid_levels(len(space.free)) < 2:
        raise EvaluationError(
            f"a grid of {len(space.free)} ω has too many candidates", hint='use search = "gradient" in [tune]'
        )
    candidates = resident(inputs, space.deltas, context)
    passes = Passes(candidates, judged, params["dtype"], log)
    landscape = Landscape(space, passes, params)
    starts = landscape.starts()
    found = search(params["search"], landscape.problem, landscape.samples((), starts))
    bounds = intervals(landscape.problem, found, starts[0])
    refined = layerwise(landscape, found) if params["granularity"] == "layer" else None
    chosen = landscape.choose(refined.omega if refined and refined.accepted else landscape.expand(found.best))
    outcome = SearchOutcome(landscape, found, starts[0], bounds, refined, chosen)
    context.write("trace", trace(outcome))
    write_omega(context.out / "omega", by_vector(chosen.taken.omega, space.deltas, passes.layers))
    write_passes(context.out / "passes", passes.answers, passes.scope)
    return passes.recorded()
