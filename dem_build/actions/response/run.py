"""Kind `response`: how the losses of all datasets change as the ω of one vector does, the others as in the model.

Each vector's ω goes through a few values, 0 among them, which leaves the vector out; one more pass takes the
derivatives of all losses to all ω at the model itself. Where layers have ω of their own, it is their mean that changes,
and their ratios stay. In float32, as tuning: the model is not rounded. Each change has its standard error, paired by
blocks of rows. Vectors and rows are named by their digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dem_build.actions.tune.judging import Passes
from dem_build.actions.tune.measuring import (
    begin,
    known_stderr,
    recorded,
    resident,
    validation_judges,
    vectors_of,
)
from dem_build.actions.tune.model_point import direction, model_omega, with_omega

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.actions.tune.judges import Judge
    from dem_build.actions.tune.passes import Pass
    from dem_build.digest import JSON, Digest
    from dem_build.step import Context, Inputs, Provenance

__all__ = ["FORMAT", "run"]

FORMAT = "response/1"


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `curves`; where nothing judges, that there are none, which is said.

    Args:
        inputs: `base/weights` and `base/config`; `omega`, where it was tuned; a group for each dataset (`delta`,
            `data/train`, `data/validation`; its `omega` where none was tuned), vector (`delta`; `omega`) and probe
            (`data/rows`).
        params: `omegas`, the values that each ω takes, 0 among them, and `max_samples`, most rows of a dataset.
        context: Uses `machine.micro_batch` and `machine.eval_batch_size`; resumes from the passes in its work folder.

    Raises:
        EvaluationError: A loss that is not finite, or memory ran out.
        CheckpointError: A vector of another base.
        InterruptedBuildError: The user asked to stop; the passes so far are kept.
    """
    kept = begin(context)
    judged = _judges(inputs, params["max_samples"])
    if not judged:
        context.warn(
            "no dataset has validation rows to judge by, so there are no curves: raise a `validation` share, or set "
            "response = [] in [analysis]"
        )
        context.write("curves", {"format": FORMAT, "judges": []})
        return {}
    deltas = vectors_of(inputs.groups)
    candidates = resident(inputs, deltas, context)
    passes = Passes(candidates, judged, torch.float32, kept)
    omega = model_omega(inputs, list(deltas), passes.layers)
    document = _document(passes, list(deltas), omega, params["omegas"])
    context.write("curves", document)
    return recorded(passes)


def _judges(inputs: Inputs, most: int) -> list[Judge]:
    """Return the judges in the order of their rows' digests; who has nothing to judge by is left out."""
    found = validation_judges(inputs.groups, inputs.paths["base/config"], most, all_can=False)
    return sorted(found, key=lambda judge: judge.digest)


def _document(
    passes: Passes, vectors: list[Digest], omega: NDArray[np.float64], values: list[float]
) -> dict[str, JSON]:
    model = passes.take(omega, slopes=True)
    assert model.slopes is not None
    slopes = (model.slopes.sum(axis=1) * direction(omega)).sum(axis=2) / passes.counted.sum(axis=1)[:, None]
    return {
        "format": FORMAT,
        "vectors": vectors,
        "omega": omega.mean(axis=1).tolist(),
        "judges": [_judge(judge) for judge in passes.judges],
        "model": _losses(passes, model, model),
        "slopes": slopes.tolist(),
        "points": list(_points(passes, model, values)),
    }


def _judge(judge: Judge) -> dict[str, JSON]:
    return {
        "rows": judge.digest,
        "used": judge.used,
        "left_out": judge.left_out,
        "tokens": int(judge.tokens.sum()),
    }


def _points(passes: Passes, model: Pass, values: list[float]) -> Iterator[dict[str, JSON]]:
    for vector in range(len(model.omega)):
        for value in values:
            taken = passes.take(with_omega(model.omega, vector, value))
            yield {"vector": vector, "omega": value, **_losses(passes, taken, model)}


def _losses(passes: Passes, taken: Pass, model: Pass) -> dict[str, JSON]:
    """Return mean losses, their standard errors and those of the change from the model, [judges] each."""
    return {
        "losses": passes.losses(taken).tolist(),
        "stderr": known_stderr(taken.nll, passes.counted),
        "change_stderr": known_stderr(taken.nll - model.nll, passes.counted),
    }
