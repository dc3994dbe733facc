"""Kind `gram`: Gram matrices of what each linear layer of one fine-tuned model is given on training rows."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dem_build.actions.gram.inputs import layer_grams
from dem_build.actions.gram.stored import write_layer
from dem_build.actions.match.opened import open_sums, sample_rows
from dem_build.actions.match.stream import OneThreadEach
from dem_build.actions.match.sums import Vectors
from dem_build.errors import CheckpointError, DataError
from dem_build.model.environment import device, memory_told, peak_memory, ran_on, reset_peak_memory
from dem_build.step import StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `gram`, a folder as `stored` describes.

    Args:
        inputs: `base/weights`, `base/config`, `delta`, and its dataset's `data/sample`.
        params: `rows` of the sample that are used, and `dtype` of the model's weights.
        context: Where and how.

    Raises:
        CheckpointError: A vector that does not fit the base, or a model whose layers are more than linear modules.
        DataError: There are no rows, or one has more tokens than the model takes.
    """
    started = time.monotonic()
    context.resident.clear()  # what another action left would take the room of this one
    reset_peak_memory(device())
    rows = _rows(inputs, params["rows"])
    with memory_told(CheckpointError, "while taking Gram matrices", "lower `rows` in [compose]"):
        surroundings = _write(inputs, rows, params["dtype"], context)
    return surroundings | {
        "rows": len(rows),
        "tokens": {"seen": sum(len(ids) for ids, _ in rows)},
        "peak_memory": peak_memory(device()),
        "seconds": round(time.monotonic() - started, 3),
        "threads": context.threads,
    }


def _rows(inputs: Inputs, most: int) -> list[tuple[Any, Any]]:
    rows = sample_rows(inputs.paths["data/sample"], most, inputs.paths["base/config"])
    if not rows:
        raise DataError("there are no training rows to look at", hint="give the dataset some")
    return rows


def _write(inputs: Inputs, rows: list[tuple[Any, Any]], dtype: str, context: Context) -> dict[str, Any]:
    belongs = {"base": inputs.digests["base/weights"], "delta": inputs.digests["delta"]}
    vector = StoredFile(inputs.paths["delta"], belongs["delta"])
    model, sums = open_sums(inputs, Vectors([vector], [1.0], 1.0), dtype, context)
    with (
        OneThreadEach(context.threads) as for_each,
        closing(layer_grams(model, sums, rows, for_each)) as layers,
    ):
        for number, layer in enumerate(layers):
            context.check_stop()
            names = {module: sums.layout.of_own[f"{module}.weight"].files[0] for module in layer.of}
            path = context.out / "gram" / f"layer-{number:05d}.safetensors"
            grams = {names[first]: gram.cpu().numpy() for first, gram in layer.grams.items()}
            of = {names[module]: names[first] for module, first in layer.of.items()}
            context.hashed[path] = write_layer(path, belongs, of, grams, dtype)
    return ran_on(model)
