"""Kind `compose`: the base and its vectors, each with an ω, become one model."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import METHODS
from dem_build.actions.model_parts import write_parts
from dem_build.actions.tune.omega import read_omega
from dem_build.checkpoint.combine import Combination, combine, result_specs
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.floats import CODES, LONGEST
from dem_build.checkpoint.header import kept_in
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError
from dem_build.wording import vector_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.actions.compose.methods import Method
    from dem_build.actions.tune.omega import Omega
    from dem_build.checkpoint.combine import Norms
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance, StoredFile

# Share of the edit's length that rounding may take before the user is told: next to all of such an edit lies below half
# a step of rounding, and the model is nearly its base. Short of that it is another model, and mostly no worse
# (decision 0048).
ROUNDING_WARNING = 0.99
OMEGA_SUM_TOLERANCE = 1e-6


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Compose a model.

    Args:
        inputs: Weights, config, tokenizer and generation_config of `base/`; the vectors as terms; `omega`, where
            it was tuned.
        params: `method`, a name of `METHODS`, `dtype` of the composed model, and the keys that the method reads.
        context: Where and how.

    Returns:
        The rounding error and the lengths of the edit and of each vector (‖·‖ over all elements).

    Raises:
        CheckpointError: A vector that does not fit the base, or a sum that is not finite.
    """
    started = time.monotonic()
    terms = _terms(inputs)
    _check_omegas(terms, METHODS[params["method"]], context)
    try:
        norms = _weights(inputs, terms, params, context)
    except MemoryError as error:
        raise CheckpointError(
            "out of memory while composing, which takes a few megabytes a thread beside mapped files",
            hint="end what else takes memory, or lower `jobs` in the machine file, and build again",
        ) from error
    _refuse_enormous(norms, terms)
    write_parts(inputs, params["dtype"], context)
    lost = norms.rounding_error / norms.edit if norms.edit else None
    if lost is not None and norms.rounding_error > ROUNDING_WARNING * norms.edit:
        context.warn(
            f"rounding the composed model to {params['dtype']} undoes {lost:.0%} of what the vectors change, and "
            'leaves little more than the base: raise the ω, or set dtype = "float32" in [compose]'
        )
    return {
        "edit_norm": norms.edit,
        "rounding_error": norms.rounding_error,
        "relative_rounding_error": lost,
        "terms": [
            {"vector": at.digest, "omega": omega, "norm": norm}
            for (at, omega), norm in zip(terms.items(), norms.deltas, strict=True)
        ],
        "seconds": round(time.monotonic() - started, 3),
        "threads": context.threads,
    }


def _refuse_enormous(norms: Norms, terms: Mapping[StoredFile, Omega]) -> None:
    """Refuse an edit whose square float32 cannot hold: nothing that a model computes with such weights is finite."""
    if norms.edit <= LONGEST:
        return
    at, omega, norm = max(
        ((at, _largest(omega), norm) for (at, omega), norm in zip(terms.items(), norms.deltas, strict=True)),
        key=lambda term: term[1] * term[2],
    )
    vector = vector_name(at.digest)
    raise CheckpointError(
        f"the vectors would change the base by {norms.edit:.3g} in length, most of all {vector}, whose length is "
        f"{norm:.3g}, with ω {omega:.4g}",
        hint=f"lower `omega` of {vector} in the recipe, or make it again: such weights are damage, or its training "
        "diverged",
    )


def _largest(omega: Omega) -> float:
    return max(map(abs, omega.values())) if isinstance(omega, dict) else abs(omega)


def _terms(inputs: Inputs) -> dict[StoredFile, Omega]:
    """The vectors and their ω, from the key or from what `tune` found; those of ω = 0 are no terms."""
    if "omega" not in inputs.paths:
        return {term.at: term.omega for term in inputs.terms if term.omega is not None}
    found = read_omega(inputs.paths["omega"])
    if lost := [term.at.digest for term in inputs.terms if term.at.digest not in found]:
        raise CheckpointError(f"the tuned ω name no vector {lost[0]}", hint="`--rebuild tune` searches again")
    omegas = {term.at: found[term.at.digest] for term in inputs.terms}
    return {at: w for at, w in omegas.items() if (any(w.values()) if isinstance(w, dict) else w)}


def _check_omegas(terms: Mapping[StoredFile, Omega], method: Method, context: Context) -> None:
    if method.total is None:
        return
    if not terms:
        raise CheckpointError(
            "an interpolation of no vectors is a model of zeros", hint="set an ω other than 0"
        )
    # An ω for each layer comes of a search alone, and what is not linear in ω is not searched.
    total = sum(w for w in terms.values() if not isinstance(w, dict))
    if abs(total - method.total) > OMEGA_SUM_TOLERANCE:
        context.warn(
            f"the ω of this interpolation sum to {total:g}, not 1: the base's own share is scaled by that"
        )


def _weights(
    inputs: Inputs, terms: Mapping[StoredFile, Omega], params: Mapping[str, JSON], context: Context
) -> Norms:
    base = open_checkpoint(inputs.paths["base/weights"])
    digest = inputs.digests["base/weights"]
    # Every vector is checked before the first tensor is read.
    deltas = [open_delta(at.path, base, digest, vector_name(at.digest)) for at in terms]
    code = CODES[params["dtype"]]
    kept = kept_in(base.metadata, code)
    specs = result_specs(base, code, kept)
    tell = context.teller(sum(spec.nbytes for spec in specs), "bytes")
    with ExitStack() as stack:
        for checkpoint in (base, *deltas):
            stack.enter_context(checkpoint)
        writer = stack.enter_context(weights_writer(context.out / "weights", specs))
        omegas, digests = list(terms.values()), [at.digest for at in terms]
        what = Combination(base, deltas, omegas, METHODS[params["method"]], code, kept, params, digests)
        norms = combine(what, writer, threads=context.threads, on_progress=tell)
    context.hashed |= writer.digests  # known since the last byte: the files need not be read again
    return norms
