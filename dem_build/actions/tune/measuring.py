"""What tuning ω and looking at it share: who judges, the resident model, and what is recorded of the cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.actions.tune.candidates import Candidates
from dem_build.actions.tune.judges import ROWS, judges, trained_prompts
from dem_build.actions.tune.resume import CHANGING, MEASURING, Kept
from dem_build.errors import EvaluationError
from dem_build.model.context_length import refuse_longer
from dem_build.model.environment import peak_memory, ran_on, reset_peak_memory
from dem_build.model.load import device, load_model
from dem_build.model.out_of_memory import memory_told
from dem_build.search.problem import ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.actions.tune.judges import Judge
    from dem_build.actions.tune.judging import Passes
    from dem_build.digest import Digest
    from dem_build.step import Context, Group, Inputs, Provenance

__all__ = ["begin", "known_stderr", "recorded", "resident", "validation_judges", "vectors_of"]


def begin(context: Context) -> Kept:
    """Make room, as what another action left would take the memory of the candidates; return what is kept."""
    torch.set_num_threads(context.threads)
    context.resident.clear()
    reset_peak_memory(device())
    return Kept(context)


def vectors_of(groups: Iterable[Group]) -> dict[Digest, Path]:
    """Return the file of each vector, in the order of their digests."""
    return dict(sorted((g.digests["delta"], g.paths["delta"]) for g in groups if "delta" in g.digests))


def validation_judges(
    groups: Sequence[Group], config: Path, most: int, *, all_can: bool = True
) -> list[Judge]:
    """Return the datasets' judges, then the probes'.

    Args:
        groups: Of a dataset (`data/validation`, `data/train`), of a probe (`data/rows`), or of neither.
        config: The base's config.
        most: Most rows of each.
        all_can: Whether a group without rows to judge by is an error; else it is left out.

    Raises:
        EvaluationError: A group has no row that counts and that no vector was trained on.
        DataError: A row has more tokens than the model takes.
    """
    rows = {g.name: tag for g in groups for tag in ROWS if tag in g.paths}
    judging: dict[str, Group] = {g.name: g for g in groups if g.name in rows}
    trained = trained_prompts([g.paths["data/train"] for g in groups if "data/train" in g.paths])
    found = judges(judging, rows, trained, most, all_can=all_can)
    for judge in found:
        refuse_longer(judge.rows, config)
    return sorted(found, key=lambda judge: "data/rows" in judge.group.paths)


def resident(inputs: Inputs, deltas: Mapping[Digest, Path], context: Context) -> Candidates:
    """Load the base in float32, to become one candidate after another.

    Raises:
        EvaluationError: Memory ran out.
        CheckpointError: A vector of another base, or weights that are not those of the config's model.
    """
    weights = inputs.paths["base/weights"]
    with memory_told(EvaluationError, "while loading the base in float32", "end what else takes memory"):
        model = load_model(
            weights,
            inputs.paths["base/config"],
            dtype=torch.float32,
            device=device(),
            attn_implementation=context.machine.attn_implementation,
        )
        return Candidates(model, weights, inputs.digests["base/weights"], deltas)


def known_stderr(sums: NDArray[np.float64], tokens: NDArray[np.float64]) -> list[float | None]:
    """Return the standard errors of Σ sums / Σ tokens over blocks, [judges]; of one block there is none."""
    return [float(error) if np.isfinite(error) else None for error in ratio_stderr(sums, tokens)]


def recorded(passes: Passes) -> Provenance:
    """Return what is recorded of the passes: their cost, and where they were taken.

    The seconds are those of the whole action: what it reckons between two passes holds the device, too.
    """
    kept, machine = passes.kept, passes.kept.context.machine
    return {
        "forward_equivalents": round(passes.cost, 3),
        "passes": len(passes.taken),
        "earlier_passes": passes.taken_over,
        "candidate_seconds": round(kept.seconds(CHANGING), 3),
        "measuring_seconds": round(kept.seconds(MEASURING), 3),
        "device_seconds": round(kept.elapsed, 3),
        "peak_memory": peak_memory(device()),
        "micro_batch": machine.micro_batch,
        "batch_size": machine.eval_batch_size,
        **ran_on(passes.candidates.model),
        "rows": int(np.sum([judge.used for judge in passes.judges])),
        "tokens": {"seen": passes.tokens},
    }
