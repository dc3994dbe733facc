"""Kind `response`: how the losses of all datasets change as the ω of one vector does, the others as in the model.

Each vector's ω goes through a few values, 0 among them, which leaves the vector out; one more pass takes the
derivatives of all losses to all ω at the model itself. Where layers have ω of their own, it is their mean that changes,
and their ratios stay. Models are rounded as in tuning. Each change has its standard error, paired by blocks of rows.
Vectors and rows are named by their digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.tune.candidates import resident, vectors_of
from dem_build.actions.tune.judges import validation_judges
from dem_build.actions.tune.omega import direction, model_omega, with_omega
from dem_build.actions.tune.passes import Passes, begin

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.actions.tune.pass_log import Pass
    from dem_build.digest import JSON, Digest
    from dem_build.step import Context, Inputs, Provenance

FORMAT = "response/1"


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `curves`; where nothing judges, that there are none, which is said.

    Args:
        inputs: `base/weights` and `base/config`; `omega`, where it was tuned; a group for each dataset (`delta`,
            `data/train`, `data/validation`; its `omega` where none was tuned), vector (`delta`; `omega`) and probe
            (`data/rows`).
        params: `omegas`, the values that each ω takes, 0 among them; `max_samples`, most rows of a dataset; `dtype` of
            the composed model.
        context: Uses `machine.micro_batch` and `machine.eval_batch_size`; resumes from the passes in its work folder.

    Raises:
        EvaluationError: A loss that is not finite, or memory ran out.
        CheckpointError: A vector of another base.
        InterruptedBuildError: The user asked to stop; the passes so far are kept.
    """
    log = begin(context)
    judged = validation_judges(
        inputs.groups, inputs.paths["base/config"], params["max_samples"], all_can=False
    )
    judged.sort(key=lambda judge: judge.digest)  # the order of datasets in a recipe reaches no byte
    if not judged:
        context.warn(
            "no dataset has validation rows to judge by, so there are no curves: raise a `validation` share, or set "
            "response = [] in [analysis]"
        )
        context.write("curves", {"format": FORMAT, "judges": []})
        return {}
    deltas = vectors_of(inputs.groups)
    candidates = resident(inputs, deltas, context)
    passes = Passes(candidates, judged, params["dtype"], log)
    omega = model_omega(inputs, list(deltas), passes.layers)
    document = _document(passes, list(deltas), omega, params["omegas"])
    context.write("curves", document)
    return passes.recorded()


def _document(
    passes: Passes, vectors: list[Digest], omega: NDArray[np.float64], values: list[float]
) -> dict[str, JSON]:
    model = passes.take(omega, slopes=True)
    assert model.slopes is not None
    # By the chain rule: each layer's ω moves by its direction as the mean of its vector's does.
    slopes = (model.slopes.sum(axis=1) * direction(omega)).sum(axis=2) / passes.counted.sum(axis=1)[:, None]
    return {
        "format": FORMAT,
        "vectors": vectors,
        "omega": omega.mean(axis=1).tolist(),
        "judges": [
            {
                "rows": judge.digest,
                "used": judge.used,
                "left_out": judge.left_out,
                "tokens": int(judge.tokens.sum()),
            }
            for judge in passes.judges
        ],
        "model": _losses(passes, model, model),
        "slopes": slopes.tolist(),
        "points": [
            {
                "vector": vector,
                "omega": value,
                **_losses(passes, passes.take(with_omega(omega, vector, value)), model),
            }
            for vector in range(len(vectors))
            for value in values
        ],
    }


def _losses(passes: Passes, taken: Pass, model: Pass) -> dict[str, JSON]:
    """Mean losses, their standard errors and those of the change from the model, [judges] each."""
    return {
        "losses": passes.losses(taken).tolist(),
        "stderr": passes.stderr(taken.nll),
        "change_stderr": passes.stderr(taken.nll - model.nll),
    }
