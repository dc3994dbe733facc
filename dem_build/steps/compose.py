"""Kind `compose`: the base and its vectors, each with an ω, become one model."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dem_build.checkpoint import (
    CODES,
    Combination,
    combine,
    open_checkpoint,
    open_delta,
    result_specs,
    weights_writer,
)
from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.checkpoint import Norms
    from dem_build.digest import JSON
    from dem_build.steps.api import Context, Inputs, Provenance

__all__ = ["run"]

ROUNDING_WARNING = 0.1  # share of the edit's length that rounding may lose before the user is told
OMEGA_SUM_TOLERANCE = 1e-6


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Compose a model.

    Args:
        inputs: Weights, config, tokenizer and generation_config of `base/`; the vectors as terms.
        params: `method` (`dem` or `interpolation`) and `dtype` of the composed model.
        context: Where and how.

    Returns:
        The rounding error and the lengths of the edit and of each vector (‖·‖ over all elements).

    Raises:
        CheckpointError: A vector that does not fit the base, or a sum that is not finite.
    """
    started = time.monotonic()
    _check_omegas(inputs, params["method"], context)
    norms = _weights(inputs, params["method"], params["dtype"], context)
    _config(inputs, params["dtype"], context)
    shutil.copytree(inputs.paths["base/tokenizer"], context.out / "tokenizer", copy_function=shutil.copyfile)
    shutil.copyfile(inputs.paths["base/generation_config"], context.out / "generation_config")
    _warn_of_rounding(norms, params["dtype"], context)
    return _provenance(inputs, norms) | {
        "seconds": round(time.monotonic() - started, 3),
        "threads": context.threads,
    }


def _check_omegas(inputs: Inputs, method: str, context: Context) -> None:
    if method != "interpolation":
        return
    if not inputs.terms:
        raise CheckpointError(
            "an interpolation of no vectors is a model of zeros", hint="set an ω other than 0"
        )
    total = sum(term.omega for term in inputs.terms)
    if abs(total - 1) > OMEGA_SUM_TOLERANCE:
        context.warn(
            f"the ω of this interpolation sum to {total:g}, not 1: the base's own share is scaled by that"
        )


def _weights(inputs: Inputs, method: str, dtype: str, context: Context) -> Norms:
    base = open_checkpoint(inputs.paths["base/weights"])
    digest = inputs.digests["base/weights"]
    # Every vector is checked before the first tensor is read.
    deltas = [open_delta(term.path, base, digest, f"vector {term.digest[:12]}…") for term in inputs.terms]
    specs = result_specs(base, CODES[dtype])
    total = sum(spec.nbytes for spec in specs)

    def progress(done: int) -> None:
        context.check_stop()
        context.progress(done, total, "bytes")

    with ExitStack() as stack:
        for checkpoint in (base, *deltas):
            stack.enter_context(checkpoint)
        writer = stack.enter_context(weights_writer(context.out / "weights", specs))
        what = Combination(base, deltas, [term.omega for term in inputs.terms], method, CODES[dtype])
        return combine(what, writer, threads=context.threads, on_progress=progress)


def _config(inputs: Inputs, dtype: str, context: Context) -> None:
    config = json.loads(inputs.paths["base/config"].read_text(encoding="utf-8"))
    text = json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True, ensure_ascii=False)
    (context.out / "config").write_text(text + "\n", encoding="utf-8")


def _warn_of_rounding(norms: Norms, dtype: str, context: Context) -> None:
    if norms.edit and norms.rounding_error > ROUNDING_WARNING * norms.edit:
        share = norms.rounding_error / norms.edit
        context.warn(
            f"rounding the composed model to {dtype} is an error of {share:.0%} of what the vectors change: "
            'set dtype = "float32" in [compose] to keep it'
        )


def _provenance(inputs: Inputs, norms: Norms) -> Provenance:
    return {
        "edit_norm": norms.edit,
        "rounding_error": norms.rounding_error,
        "relative_rounding_error": norms.rounding_error / norms.edit if norms.edit else None,
        "terms": [
            {"vector": term.digest, "omega": term.omega, "norm": norm}
            for term, norm in zip(inputs.terms, norms.deltas, strict=True)
        ],
    }
