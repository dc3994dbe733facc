"""Kind `match`: the base and its vectors become one model that does on each dataset's rows what its single does."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dem_build.actions.match.matching import Matching
from dem_build.actions.match.opened import open_sums, sample_rows
from dem_build.actions.match.rows import SampledRows
from dem_build.actions.match.spec import PASSES
from dem_build.actions.match.sums import Vectors, Written
from dem_build.actions.model_parts import write_parts
from dem_build.actions.saliency.stored import read_saliency
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError
from dem_build.model.environment import device, memory_told, peak_memory, ran_on, reset_peak_memory
from dem_build.step import StoredFile
from dem_build.workload import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dem_build.actions.saliency.stored import Values
    from dem_build.digest import JSON, Digest
    from dem_build.step import Context, Group, Inputs, Provenance


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Match, and write the model.

    Args:
        inputs: Weights, config, tokenizer and generation_config of `base/`; a group for each vector, with its `delta`,
            rows of its dataset as `data/sample`, where there are any, their `saliency`, where it is to count, and the
            parameter `importance` (1 by default).
        params: `dtype` of the model, `rows` of each dataset that are used, `ridge` (λ) and `prior` (c, or `fit`).
        context: Where and how.

    Returns:
        Of each vector its importance, rows, tokens, and how far the model is from it at the end.

    Raises:
        CheckpointError: A vector that does not fit the base, a model that cannot be matched, or values that are not
            finite.
        DataError: A row has more tokens than the model takes.
    """
    started = time.monotonic()
    context.resident.clear()  # what another action left would take the room of this one
    reset_peak_memory(device())
    groups = _groups(inputs)
    with memory_told(
        CheckpointError, "while matching", "lower `rows` in [compose], or end what else takes memory"
    ):
        found = _match(inputs, groups, params, context)
    write_parts(inputs, params["dtype"], context)
    return found | {"seconds": round(time.monotonic() - started, 3), "threads": context.threads}


def _groups(inputs: Inputs) -> list[Group]:
    """The vectors that count, in an order that no name reaches; one of importance 0 is left out altogether."""
    groups = [group for group in inputs.groups if _importance(group) > 0]

    def place(group: Group) -> tuple[str | float, ...]:
        of = (group.digests.get(tag, "") for tag in ("delta", SAMPLE, "saliency"))
        return *of, _importance(group)

    return sorted(groups, key=place)


def _importance(group: Group) -> float:
    value = group.params.get("importance")
    return 1.0 if value is None else float(value)


def _match(
    inputs: Inputs, groups: list[Group], params: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    importances = [_importance(group) for group in groups]
    files = [StoredFile(group.paths["delta"], group.digests["delta"]) for group in groups]
    vectors = Vectors(files, importances, None if params["prior"] == "fit" else params["prior"])
    model, sums = open_sums(inputs, vectors, params["dtype"], context)
    rows = [_rows(group, params["rows"], inputs.paths["base/config"], context) for group in groups]
    tokens = [sum(len(ids) for ids, _ in found) for found in rows]
    base = inputs.digests["base/weights"]
    samples = [
        SampledRows(found, _saliency(group, base, count))
        for group, found, count in zip(groups, rows, tokens, strict=True)
    ]
    with ExitStack() as stack:
        matching = stack.enter_context(Matching(model, sums, samples, params["ridge"], context.threads))
        if 0 < sum(tokens) < matching.width:
            context.warn(
                f"{sum(tokens)} tokens in all are fewer than the {matching.width} inputs of a layer: most of what the "
                "vectors learned is then composed by the prior; raise `rows` in [compose]"
            )
        writer = stack.enter_context(weights_writer(context.out / "weights", sums.specs))
        written = Written(writer, sums)
        tell = context.teller(matching.modules, "linear layers")
        residuals = matching.run(written, tell)
        written.rest(lambda _: context.check_stop())
        tell(matching.modules)
    context.hashed |= writer.digests  # known since the last byte: the files need not be read again
    return {
        "terms": [
            {
                "vector": group.digests["delta"],
                "sample": group.digests.get(SAMPLE),
                "importance": importance,
                "rows": len(found),
                "tokens": count,
                "residual": residuals.get(j),
            }
            for j, (group, importance, found, count) in enumerate(
                zip(groups, importances, rows, tokens, strict=True)
            )
        ],
        "tokens": {"seen": PASSES * sum(tokens)},
        "peak_memory": peak_memory(device()),
        **ran_on(model),
    }


def _saliency(group: Group, base: Digest, tokens: int) -> dict[str, Values]:
    """The saliency of a group's rows, by weights of the files; none where it has none."""
    if "saliency" not in group.paths:
        return {}
    belongs = {"base": base, "delta": group.digests["delta"]}
    return read_saliency(group.paths["saliency"], belongs, group.name, tokens)


def _rows(group: Group, most: int, config: Path, context: Context) -> list[Any]:
    """The first rows of a group's sample."""
    rows = sample_rows(group.paths[SAMPLE], most, config) if SAMPLE in group.paths else []
    if not rows:
        context.warn(f"{group.name} has no rows: of its vector only the prior knows")
    return rows
