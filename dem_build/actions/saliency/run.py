"""Kind `saliency`: how much what the linear layers of one fine-tuned model put out of each token moves its loss."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.actions.match.opened import sample_rows
from dem_build.actions.saliency.gradients import SaliencyPasses
from dem_build.actions.saliency.stored import write_saliency
from dem_build.actions.tune.candidates import resident
from dem_build.errors import DataError, EvaluationError
from dem_build.model.environment import device, memory_told, peak_memory, ran_on, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from dem_build.actions.match.rows import TokenRow
    from dem_build.actions.saliency.gradients import Saliency
    from dem_build.actions.saliency.stored import Values
    from dem_build.digest import JSON
    from dem_build.model.weight_layout import WeightLayout
    from dem_build.step import Context, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `saliency`, a file as `stored` describes.

    Args:
        inputs: `base/weights`, `base/config`, `delta`, and its dataset's `data/sample`.
        params: `rows` of the sample that are used, and `dtype` of the model's weights, which compute in float32.
        context: Where and how.

    Raises:
        CheckpointError: A vector that does not fit the base, or saliency that is not finite.
        DataError: There are no rows, or one has more tokens than the model takes.
        EvaluationError: Memory ran out.
    """
    started = time.monotonic()
    torch.set_num_threads(context.threads)
    context.resident.clear()  # what another action left would take the room of this one
    reset_peak_memory(device())
    rows = sample_rows(inputs.paths["data/sample"], params["rows"], inputs.paths["base/config"])
    if not rows:
        raise DataError("there are no training rows to look at", hint="give the dataset some")
    digest = inputs.digests["delta"]
    candidates = resident(inputs, {digest: inputs.paths["delta"]}, context)
    candidates.become(np.ones((1, len(candidates.layers))), getattr(torch, params["dtype"]))
    model = candidates.model
    with memory_told(EvaluationError, "while taking saliency", "take it where there is more memory"):
        found = _passed(model, rows, context)
    belongs = {"base": inputs.digests["base/weights"], "delta": digest}
    path = context.out / "saliency"
    context.hashed[path] = write_saliency(path, belongs, *_by_files(candidates.layout, rows, found))
    return {
        "rows": len(rows),
        "tokens": {"seen": sum(len(ids) for ids, _ in rows)},
        "peak_memory": peak_memory(device()),
        "seconds": round(time.monotonic() - started, 3),
        "threads": context.threads,
        **ran_on(model),
    }


def _passed(model: PreTrainedModel, rows: Sequence[TokenRow], context: Context) -> list[Saliency]:
    found = []
    tell = context.teller(len(rows), "rows")
    with SaliencyPasses(model) as passes:
        for done, row in enumerate(rows):
            tell(done)
            found.append(passes.of(row))
    tell(len(rows))
    return found


def _by_files(
    layout: WeightLayout, rows: Sequence[TokenRow], found: Sequence[Saliency]
) -> tuple[dict[str, str], dict[str, Values]]:
    """Which weight of the files has which one's input, and the saliency at each of these."""
    first = {module: of for each in found for module, of in each.of.items()}
    file = {module: layout.of_own[f"{module}.weight"].files[0] for module in first}
    values = {
        file[of]: np.concatenate(
            [_values(each, of, len(ids)) for each, (ids, _) in zip(found, rows, strict=True)]
        )
        for of in first.values()
    }
    return {file[module]: file[of] for module, of in first.items()}, values


def _values(found: Saliency, of: str, tokens: int) -> Values:
    squares = found.squares.get(of)
    return np.zeros(tokens, np.float32) if squares is None else squares.sqrt().cpu().numpy()
