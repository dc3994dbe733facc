"""Results → rows that put models side by side, with the change against the base.

A difference is clear where zero lies outside its 95 % interval.

Gain recovered is how much of what a dataset's own vector gains a model keeps, on test rows:

    g = (L_base - L) / max(L_base - L_single, least_gain)

with `stats.least_gain`, and the test losses of base, model and single vector. 0 is the base, 1 what the dataset's own
vector reaches alone. Errors are those of differences, with the denominator held fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.stats import FEW_ROWS, Z95, least_gain, stderr_of_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.report.results import Metrics, Results

BASE = "base"
COMPOSED = "composed"
LOSS_TASK = "loss:"
LOSS = "loss"
STDERR = "_stderr"
COUNTS = frozenset({"tokens", "rows", "prompts", "samples"})
# Where a task does not say: the metrics that lm-eval registers with higher_is_better=False, and the held-out loss.
LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
)
# Metrics of lm-eval that are no share of the samples, though one may be 0 or 1.
NO_SHARE = LOWER_IS_BETTER | {"bleu", "chrf"}


class Trend(StrEnum):
    """What a change is worth."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Measurement:
    """A value and its standard error: None where that is unknown, and never 0 (`stats.stderr_of_share`)."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class Change:
    """Composed minus base, what that is worth, and its standard error, None where that is unknown."""

    delta: float
    trend: Trend
    stderr: float | None = None


@dataclass(frozen=True)
class MetricRow:
    """One metric of one task, of all models that have it.

    Attributes:
        task: The task's name in results (`loss:math`, `arc_easy`).
        measures: Model → what was measured.
        lower_is_better: Whether less of the metric is better.
        change: Composed against base, None where either is missing.
    """

    task: str
    metric: str
    measures: Mapping[str, Measurement]
    lower_is_better: bool
    change: Change | None

    @property
    def subject(self) -> str:
        """The task for people: a held-out loss is named by its dataset."""
        return subject(self.task)


def measure_of(results: Results, model: str, task: str, metric: str) -> Measurement | None:
    """What was measured, None where nothing was."""
    return _measure(results.table.get(model, {}).get(task, {}), metric)


def difference(results: Results, task: str, metric: str, model: str, against: str) -> Measurement | None:
    """A model minus another one, None where either has no finite value."""
    new, old = (measure_of(results, one, task, metric) for one in (model, against))
    if new is None or old is None or not math.isfinite(new.value - old.value):
        return None
    if metric == LOSS and has_few_rows(results, model, task):
        return Measurement(new.value - old.value)
    stderr = results.rows.stderr(task, model, against) if metric == LOSS else None
    # Without rows, as if independent: on the same samples that calls some true differences noise, seldom the reverse.
    if stderr is None and old.stderr is not None and new.stderr is not None:
        stderr = math.hypot(old.stderr, new.stderr)
    return Measurement(new.value - old.value, stderr)


def has_few_rows(results: Results, model: str, task: str) -> bool:
    """Whether so few rows were evaluated on, of different prompts, that the error of a difference is hardly known."""
    counts = results.table[model][task]
    return counts.get("prompts", counts.get("rows", FEW_ROWS)) < FEW_ROWS


def trend_of(delta: Measurement, *, lower_is_better: bool) -> Trend:
    """What a difference is worth."""
    if delta.stderr is None:
        return Trend.UNKNOWN
    if abs(delta.value) <= Z95 * delta.stderr:
        return Trend.NOISE
    return Trend.BETTER if (delta.value < 0) == lower_is_better else Trend.WORSE


def subject(task: str) -> str:
    """A task's name for people: a held-out loss is named by its dataset."""
    return task.removeprefix(LOSS_TASK)


def lower_is_better(results: Results, task: str, metric: str) -> bool:
    """Whether less of a task's metric is better: as the task says, else as the metric's name does."""
    plain = metric.partition("@")[0]  # `metric@filter`
    return falls(plain, results.higher_is_better.get(task, {}).get(plain))


def falls(metric: str, higher_is_better: object) -> bool:
    """Whether less of a metric is better: as its task says of more, else as its name does."""
    return metric in LOWER_IS_BETTER if higher_is_better is None else not higher_is_better


def model_names(results: Results) -> list[str]:
    """The models that were evaluated: base, composed, unhealed and trunk, then baselines and vectors alone."""
    stages = (stage.model for stage in reversed([*results.stages.values()]))
    first = (BASE, COMPOSED, *stages, *results.baselines, *results.vectors)
    return list(dict.fromkeys(name for name in (*first, *sorted(results.table)) if name in results.table))


def folded(results: Results) -> dict[str, list[str]]:
    """Group with a score → its tasks, which have no rows: there may be dozens, and their mean is what counts."""
    tasks = _tasks(results)
    found: dict[str, list[str]] = {}
    for task, group in results.members.items():
        if task in tasks and group in tasks:
            found.setdefault(group, []).append(task)
    return found


def _tasks(results: Results) -> dict[str, None]:
    return dict.fromkeys(task for model in model_names(results) for task in results.table[model])


def rows(results: Results) -> list[MetricRow]:
    """A row for each metric of each task: losses first, else in the order they were recorded.

    A group of tasks with a score stands for its tasks: see `folded`.
    """
    tasks = _tasks(results)
    hidden = {task for tasks in folded(results).values() for task in tasks}
    ordered = sorted((t for t in tasks if t not in hidden), key=lambda task: not task.startswith(LOSS_TASK))
    found = []
    for task in ordered:
        measured = {m: results.table[m][task] for m in model_names(results) if task in results.table[m]}
        # Beside the values stand their standard errors, and counts of what they were measured on.
        names = dict.fromkeys(
            name
            for metrics in measured.values()
            for name in metrics
            if not name.endswith(STDERR) and name not in COUNTS
        )
        for name in names:
            lower = lower_is_better(results, task, name)
            delta = difference(results, task, name, COMPOSED, BASE)
            trend = trend_of(delta, lower_is_better=lower) if delta else Trend.UNKNOWN
            change = Change(delta.value, trend, delta.stderr) if delta else None
            measures = {model: one for model, m in measured.items() if (one := _measure(m, name))}
            found.append(MetricRow(task, name, measures, lower, change))
    return found


def _measure(metrics: Metrics, name: str) -> Measurement | None:
    if name not in metrics:
        return None
    stderr = metrics.get(name + STDERR)
    if stderr is None or not math.isfinite(stderr):
        return Measurement(metrics[name])
    if name.partition("@")[0] not in NO_SHARE:
        stderr = stderr_of_share(metrics[name], stderr, metrics.get("samples", 0.0))
    return Measurement(metrics[name], stderr or None)  # of samples that are all alike, nobody knows it


@dataclass(frozen=True)
class Scale:
    """The constants of a dataset's gain recovered.

    Attributes:
        gained: What the single vector gains, or the floor where it gains less; positive.
        floored: Whether it gains less: a gain recovered says little there.
    """

    gained: float
    floored: bool


def losses_of(results: Results, model: str) -> dict[str, Measurement]:
    """A model's test loss on each dataset that it was evaluated on, where that is a finite number."""
    found = {n: measure_of(results, model, LOSS_TASK + n, LOSS) for n in results.datasets}
    return {name: m for name, m in found.items() if m is not None and math.isfinite(m.value)}


def above(results: Results, model: str, against: str) -> dict[str, Measurement]:
    """By how much a model's test loss lies above that of another one, on each dataset of both."""
    found = {n: difference(results, LOSS_TASK + n, LOSS, model, against) for n in results.datasets}
    return {name: m for name, m in found.items() if m is not None}


def scales(results: Results) -> dict[str, Scale]:
    """The constants of each dataset whose own vector was evaluated alone."""
    found = {name: _scale(results, name) for name in results.datasets}
    return {name: scale for name, scale in found.items() if scale is not None}


def clear(results: Results) -> list[str]:
    """The datasets whose own vector gains more than the floor: those that a mean gain recovered is of."""
    # Of next to nothing a gain says little, and as the floor is small it would outweigh all others in the mean.
    return [name for name, scale in scales(results).items() if not scale.floored]


def _scale(results: Results, name: str) -> Scale | None:
    base = measure_of(results, BASE, LOSS_TASK + name, LOSS)
    gain = difference(results, LOSS_TASK + name, LOSS, BASE, name)
    if base is None or gain is None:
        return None
    least = least_gain(base.value, gain.value, gain.stderr)
    gained = max(gain.value, least)
    return Scale(gained, gain.value < least) if gained > 0 else None


def gains(results: Results, model: str, against: str = BASE) -> dict[str, Measurement]:
    """A model's gain recovered on each dataset that has one, less that of another model."""
    below = above(results, against, model)
    return {
        name: Measurement(m.value / scale.gained, None if m.stderr is None else m.stderr / scale.gained)
        for name, scale in scales(results).items()
        if (m := below.get(name)) is not None
    }


def mean(measures: Mapping[str, Measurement], names: Iterable[str]) -> Measurement:
    """The mean over some names; its error is unknown where one of theirs is."""
    chosen = [measures[name] for name in names]
    errors = [m.stderr for m in chosen if m.stderr is not None]
    stderr = math.hypot(*errors) / len(chosen) if len(errors) == len(chosen) else None
    return Measurement(sum(m.value for m in chosen) / len(chosen), stderr)
