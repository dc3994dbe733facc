"""Kind `tune`: finds ω of the vectors on validation rows that no vector was trained on.

One float32 model on the device becomes every candidate in turn; `tuning` decides which. What is found is written by
the digests of the vectors: names and their order in a recipe reach no byte.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.digest import canonical
from dem_build.errors import EvaluationError
from dem_build.steps.candidates import Candidates
from dem_build.steps.context_length import refuse_longer
from dem_build.steps.environment import device_name, peak_memory, reset_peak_memory, versions
from dem_build.steps.judges import judges, trained_prompts
from dem_build.steps.models import device, load_model
from dem_build.steps.omega import write_omega
from dem_build.steps.passes import Passes, write_passes
from dem_build.steps.tuned import Space, layerwise
from dem_build.steps.tuned_trace import Outcome, trace
from dem_build.tuning import SEARCHES, intervals, search
from dem_build.tuning.searches import grid_levels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.steps.api import Context, Group, Inputs, Provenance
    from dem_build.steps.judges import Judge

__all__ = ["resident_candidates", "run", "tuning_judges"]


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Search ω and write `omega`, `trace` and `passes`.

    Args:
        inputs: `base/weights` and `base/config`; a group for each dataset (`delta`, `data/validation`, `data/train`;
            its `importance`, and its `omega` where that is fixed), each vector from elsewhere (`delta`; `omega`) and
            each probe (`data/rows`; its `limit`).
        params: `search`, `objective`, `granularity`, `max_samples`, `bounds`, and `dtype` of the composed model.
        context: Uses `machine.micro_batch` and `machine.eval_batch_size`; resumes from the passes in its work folder.

    Raises:
        EvaluationError: No rows to tune on, a loss that is not finite, or a grid of too many ω.
        CheckpointError: A vector of another base.
        InterruptedBuildError: The user asked to stop; the passes so far are kept.
    """
    torch.set_num_threads(context.threads)
    context.resident.clear()  # what another action left would take the room that tuning needs
    reset_peak_memory(device())
    started = time.monotonic()
    judged = tuning_judges(inputs, params["max_samples"])
    space = Space(inputs.groups, judged, params)
    _check_grid(params["search"], space)
    candidates = resident_candidates(inputs, space, context)
    passes = Passes(candidates, judged, getattr(torch, params["dtype"]), context)
    known = space.begin(passes, candidates.layers)
    found = search(params["search"], space.problem, known)
    bounds = intervals(space.problem, found, space.uniform)
    refined = layerwise(space, found) if params["granularity"] == "layer" else None
    accepted = refined is not None and refined.accepted
    chosen = space.choose(refined.omega if refined and accepted else space.expand(found.best.omega))
    outcome = Outcome(space, found, bounds, refined, chosen)
    context.out.mkdir(parents=True, exist_ok=True)
    write_omega(context.out / "omega", space.by_digest(chosen.omega))
    (context.out / "trace").write_bytes(canonical(trace(outcome)))
    write_passes(context.out / "passes", passes.taken)
    return _provenance(passes, context) | {"search_seconds": round(time.monotonic() - started, 3)}


def tuning_judges(inputs: Inputs, most: int) -> list[Judge]:
    """Return the datasets' judges, then the probes'."""
    rows = {g.name: tag for g in inputs.groups for tag in ("data/validation", "data/rows") if tag in g.paths}
    groups: dict[str, Group] = {g.name: g for g in inputs.groups if g.name in rows}
    trained = trained_prompts([g.paths["data/train"] for g in inputs.groups if "data/train" in g.paths])
    found = judges(groups, rows, trained, most)
    for judge in found:
        refuse_longer(judge.rows, inputs.paths["base/config"])
    return sorted(found, key=lambda judge: "data/rows" in judge.group.paths)


def _check_grid(name: str, space: Space) -> None:
    assert name in SEARCHES
    if name == "grid" and grid_levels(len(space.free)) < 2:
        raise EvaluationError(
            f"a grid of {len(space.free)} ω has too many candidates", hint='use search = "gradient" in [tune]'
        )


def resident_candidates(inputs: Inputs, space: Space, context: Context) -> Candidates:
    """Load the base in float32, to become candidates."""
    weights = inputs.paths["base/weights"]
    model = load_model(
        weights,
        inputs.paths["base/config"],
        dtype=torch.float32,
        device=device(),
        attn_implementation=context.machine.attn_implementation,
    )
    return Candidates(model, weights, inputs.digests["base/weights"], space.deltas)


def _provenance(passes: Passes, context: Context) -> Provenance:
    return {
        "forward_equivalents": round(passes.cost, 3),
        "passes": len(passes.taken),
        "earlier_passes": len(passes.earlier),
        "candidate_seconds": round(passes.changing, 3),
        "measuring_seconds": round(passes.measuring, 3),
        "device_seconds": round(passes.changing + passes.measuring, 3),
        "peak_memory": peak_memory(device()),
        "micro_batch": context.machine.micro_batch,
        "batch_size": context.machine.eval_batch_size,
        "device": device_name(device()),
        "versions": versions(),
        "rows": int(np.sum([judge.used for judge in passes.judges])),
    }
