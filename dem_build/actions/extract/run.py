"""Kind `extract`: somebody's fine-tune of the base, a checkpoint or a LoRA adapter, becomes a vector.

A checkpoint is held against the base by config, names and shapes before a tensor is read, and is then subtracted in
chunks, so that memory does not grow with the model. An adapter is added to the base first (`actions/extract/merge.py`).
Two models of one shape can still be strangers: that is seen by how far the weights are apart.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.extract.full_model import OF_THE_BASE, in_layout_of, refuse_strangers
from dem_build.checkpoint.delta import delta_shapes, delta_writer, write_delta, write_difference
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, CONFIG
from dem_build.checkpoint.floats import squared_sum
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json
from dem_build.model.architecture import architecture, open_files, select

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from dem_build.checkpoint.delta import DeltaNorms
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

UNRELATED = 1.0
"""‖ΔΘ‖ / ‖Θ‖ of the middle matrix from which on a model is no fine-tune of the base.

Independent weights of equal length are √2 apart, and of unequal length still more than 1, as they are orthogonal;
fine-tuning moves a matrix by 0.001 to 0.1 of its length, and long further pre-training by less than 1.
"""
FAR = 0.3
"""The same, from which on the user is told: more than fine-tuning does, as after much further pre-training."""
NAMED = 3  # tensors in a message


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Extract a vector.

    Args:
        inputs: `base/weights` and `base/config`; the fine-tune's files as `sources`, each tagged with its name.
        params: `source` (`checkpoint` or `adapter`), `vector_dtype`, and how an adapter is merged.
        context: Where and how.

    Returns:
        The vector's norm and its rounding error, and how far the matrices moved, as ‖ΔΘ‖ / ‖Θ‖.

    Raises:
        CheckpointError: Damaged files, or a model that is no fine-tune of the base.
    """
    context.resident.clear()  # what another action left would take room
    extract = _adapter if params["source"] == "adapter" else _checkpoint
    norms, moved = extract(inputs, params["vector_dtype"], context)
    shapes = delta_shapes(open_checkpoint(inputs.paths["base/weights"]))
    matrices = {name: share for name, share in moved.items() if len(shapes[name]) > 1}
    where = inputs.sources[0].origin
    return {
        "vector": norms.provenance(params["vector_dtype"]),
        "moved": _judge(params["source"], matrices, norms.norm == 0, where, context),
    }


def _checkpoint(inputs: Inputs, dtype: str, context: Context) -> tuple[DeltaNorms, dict[str, float]]:
    files = {source.tag: source.path for source in inputs.sources}
    where = inputs.sources[0].origin
    config = parse_json(files[CONFIG].read_text(encoding="utf-8"))
    base_config = parse_json(inputs.paths["base/config"].read_text(encoding="utf-8"))
    weights = refuse_strangers(base_config, config, where, context)
    base = open_checkpoint(inputs.paths["base/weights"])
    selected = select(weights, open_files(files), where)
    with base, in_layout_of(base.tensors, selected, weights) as tuned:
        tell = context.teller(sum(tensor.size for tensor in base.tensors.values()), "parameters")
        digest, shapes = inputs.digests["base/weights"], delta_shapes(base)
        with delta_writer(context.out / "delta", digest, shapes, dtype) as writer:
            norms, moved = write_difference(writer, base, tuned, tell)
    _judge_rows(base, tuned, moved, where, context)
    return norms, moved


def _judge_rows(
    base: Checkpoint, tuned: Checkpoint, moved: Mapping[str, float], where: str, context: Context
) -> None:
    """Say that a fine-tune lacks rows of the base, which its vector leaves as they are; refuse it where others differ.

    Raises:
        CheckpointError: The rows that both have are of other tokens: cut off in the middle, or sorted anew.
    """
    short = [n for n, tensor in tuned.tensors.items() if tensor.shape != base.tensors[n].shape]
    if not short:
        return
    had, has = tuned.tensors[short[0]].shape[0], base.tensors[short[0]].shape[0]
    if strange := [name for name in short if moved[name] >= UNRELATED]:
        what = f"has {had} rows in {strange[0]}, and the base {has}, of which the first {had} are others"
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)
    context.note(
        f"it has no rows for the last {has - had} tokens of the base: the vector leaves them as they are"
    )


def _adapter(inputs: Inputs, dtype: str, context: Context) -> tuple[DeltaNorms, dict[str, float]]:
    from dem_build.actions.extract.merge import merged_weights  # noqa: PLC0415  peft takes seconds that a checkpoint spares

    files = {source.tag: source.path for source in inputs.sources}
    config = parse_json(files[ADAPTER_CONFIG].read_text(encoding="utf-8"))
    if named := config.get("base_model_name_or_path"):
        context.note(f"the adapter says that it was trained on {named}")
    moved: dict[str, float] = {}
    weights = architecture(parse_json(inputs.paths["base/config"].read_text(encoding="utf-8")), "base")
    base = open_checkpoint(inputs.paths["base/weights"])
    shapes = delta_shapes(base)
    with base:

        def differences() -> Iterator[tuple[str, NDArray[np.float32]]]:
            merged = merged_weights(inputs, config, weights.built, base, context)
            for done, (name, values) in enumerate(merged):
                context.check_stop()
                context.progress(done, len(shapes), "tensors")
                if name not in shapes:
                    continue
                theta = base.read(name)
                # In float32, and rounded to the vector's format only when it is stored; of a tensor that the adapter
                # leaves alone, zeros.
                difference = np.subtract(theta if values is None else values, theta, out=values)
                length, squares = squared_sum(theta), squared_sum(difference)
                moved[name] = (squares / length) ** 0.5 if length > 0 else 0.0
                del theta  # else it is held while the difference is written and the next tensor is merged
                yield name, difference

        digest = inputs.digests["base/weights"]
        return write_delta(context.out / "delta", digest, shapes, differences(), dtype), moved


def _judge(
    source: str, shares: Mapping[str, float], zero: bool, where: str, context: Context
) -> dict[str, JSON]:
    """Refuse what is no fine-tune, warn of what hardly is one; return how far the matrices moved.

    Args:
        source: `checkpoint` or `adapter`.
        shares: Name of a matrix → ‖ΔΘ‖ / ‖Θ‖.
        zero: Whether nothing moved.
        where: What messages call the fine-tune.
        context: Takes the warnings.
    """
    # The median of matrices, and no length of the whole: a head that was trained anew, or one new layer, is far from
    # the base, and the model may be its fine-tune all the same.
    middle = statistics.median(shares.values()) if shares else 0.0
    farthest = sorted(shares, key=lambda name: -shares[name])[:NAMED]
    strange = [name for name in farthest if shares[name] >= UNRELATED]
    if source == "adapter" and middle >= FAR:
        context.warn(
            f"{where}: the adapter changes weights by {middle:.2g} times their length, and adapters change 0.001 to "
            "0.1: do its config (r, lora_alpha) and its weights belong together?"
        )
    elif middle >= UNRELATED:
        what = (
            f"is no fine-tune of this base: its weights are {middle:.2g} times the base's own length away from "
            f"it (the middle one of {len(shares)} matrices; fine-tuning moves 0.001 to 0.1, unrelated models "
            "are about 1.4 apart)"
        )
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)
    elif middle >= FAR:
        context.warn(
            f"{where}: its weights are {middle:.2g} times the base's own length away from it, and fine-tuning moves "
            "0.001 to 0.1: is it a fine-tune of this base?"
        )
    elif strange:
        context.warn(f"{where}: trained anew, or of another model: {', '.join(strange)}")
    if zero:
        context.warn(f"{where}: its weights are those of the base: the vector is zero")
    return {"median": middle, "farthest": {name: shares[name] for name in farthest}}
