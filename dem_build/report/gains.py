"""Gain recovered on test rows: how much of what a dataset's own vector gains a model keeps.

    g = (L_base - L) / max(L_base - L_single, least_gain)

with `significance.least_gain`. 0 is the base, 1 what the dataset's own vector reaches alone. Where that gains next to
nothing, g says little, and as the floor is small it would outweigh all others in a mean, so that no mean has it. It
takes the test losses of base, model and single vector; errors are those of differences (`comparison.difference`), with
the denominator held fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.report.comparison import BASE, LOSS, LOSS_TASK, Measure, difference, measure_of
from dem_build.stats import least_gain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.report.results import Results

__all__ = ["Scale", "above", "clear", "gains", "losses_of", "mean", "scales"]


@dataclass(frozen=True)
class Scale:
    """The constants of a dataset's gain recovered.

    Attributes:
        gained: What the single vector gains, or the floor where it gains less; positive.
        floored: Whether it gains less: a gain recovered says little there.
    """

    gained: float
    floored: bool


def losses_of(results: Results, model: str) -> dict[str, Measure]:
    """Return a model's test loss on each dataset that it was evaluated on, where that is a finite number."""
    found = {n: measure_of(results, model, LOSS_TASK + n, LOSS) for n in results.datasets}
    return {name: m for name, m in found.items() if m is not None and math.isfinite(m.value)}


def above(results: Results, model: str, against: str) -> dict[str, Measure]:
    """Return by how much a model's test loss lies above that of another one, on each dataset of both."""
    found = {n: difference(results, LOSS_TASK + n, LOSS, model, against) for n in results.datasets}
    return {name: m for name, m in found.items() if m is not None}


def scales(results: Results) -> dict[str, Scale]:
    """Return the constants of each dataset whose own vector was evaluated alone."""
    found = {name: _scale(results, name) for name in results.datasets}
    return {name: scale for name, scale in found.items() if scale is not None}


def clear(results: Results) -> list[str]:
    """Return the datasets whose own vector gains more than the floor: those that a mean gain recovered is of."""
    return [name for name, scale in scales(results).items() if not scale.floored]


def _scale(results: Results, name: str) -> Scale | None:
    base = measure_of(results, BASE, LOSS_TASK + name, LOSS)
    gain = difference(results, LOSS_TASK + name, LOSS, BASE, name)
    if base is None or gain is None:
        return None
    least = least_gain(base.value, gain.value, gain.stderr)
    gained = max(gain.value, least)
    return Scale(gained, gain.value < least) if gained > 0 else None


def gains(results: Results, model: str, against: str = BASE) -> dict[str, Measure]:
    """Return a model's gain recovered on each dataset that has one, less that of another model."""
    below = above(results, against, model)
    return {
        name: Measure(m.value / scale.gained, None if m.stderr is None else m.stderr / scale.gained)
        for name, scale in scales(results).items()
        if (m := below.get(name)) is not None
    }


def mean(measures: Mapping[str, Measure], names: Iterable[str]) -> Measure:
    """Return the mean over some names; its error is unknown where one of theirs is."""
    chosen = [measures[name] for name in names]
    errors = [m.stderr for m in chosen if m.stderr is not None]
    stderr = math.hypot(*errors) / len(chosen) if len(errors) == len(chosen) else None
    return Measure(sum(m.value for m in chosen) / len(chosen), stderr)
