"""Gain recovered on test rows: how much of what a dataset's own vector gains a model keeps.

    g = (L_base - L) / max(L_base - L_single, 2 stderr)

0 is the base, 1 what the dataset's own vector reaches alone. It takes the test losses of base, model and single vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.report.comparison import BASE, LOSS_TASK, STDERR, Measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.report.results import Results

__all__ = ["Scale", "gains", "loss_of", "mean", "scales"]

LOSS = "loss"
FLOOR = 2.0  # standard errors


@dataclass(frozen=True)
class Scale:
    """The constants of a dataset's gain recovered.

    Attributes:
        base: Loss of the base.
        gained: What the single vector gains, or two standard errors of that where it gains less; positive.
        floored: Whether it gains less: a gain recovered says little there.
    """

    base: float
    gained: float
    floored: bool


def loss_of(results: Results, model: str, dataset: str) -> Measure | None:
    """Return a model's test loss; None where it was not measured or is no finite number."""
    metrics = results.table.get(model, {}).get(LOSS_TASK + dataset, {})
    value, stderr = metrics.get(LOSS, math.nan), metrics.get(LOSS + STDERR, math.nan)
    return Measure(value, stderr if math.isfinite(stderr) else None) if math.isfinite(value) else None


def scales(results: Results) -> dict[str, Scale]:
    """Return the constants of each dataset whose own vector was evaluated alone."""
    found = {name: _scale(results, name) for name in results.datasets}
    return {name: scale for name, scale in found.items() if scale is not None}


def _scale(results: Results, name: str) -> Scale | None:
    base, single = loss_of(results, BASE, name), loss_of(results, name, name)
    if base is None or single is None:
        return None
    # As if independent: both saw the same rows, so the floor is rather too high than too low.
    floor = FLOOR * math.hypot(base.stderr or 0.0, single.stderr or 0.0)
    gained = max(base.value - single.value, floor)
    return Scale(base.value, gained, base.value - single.value <= floor) if gained > 0 else None


def gains(results: Results, model: str) -> dict[str, Measure]:
    """Return a model's gain recovered on each dataset that has one; errors hold the constants fixed."""
    found: dict[str, Measure] = {}
    for name, scale in scales(results).items():
        loss = loss_of(results, model, name)
        if loss is not None:
            stderr = None if loss.stderr is None else loss.stderr / scale.gained
            found[name] = Measure((scale.base - loss.value) / scale.gained, stderr)
    return found


def mean(measures: Mapping[str, Measure], names: Iterable[str]) -> Measure:
    """Return the mean over some names; its error is unknown where one of theirs is."""
    chosen = [measures[name] for name in names]
    errors = [m.stderr for m in chosen if m.stderr is not None]
    stderr = math.hypot(*errors) / len(chosen) if len(errors) == len(chosen) else None
    return Measure(sum(m.value for m in chosen) / len(chosen), stderr)
