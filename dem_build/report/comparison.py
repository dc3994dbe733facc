"""Results → rows that put models side by side, with the change against the base.

A difference is clear where zero lies outside its 95 % interval. Its standard error is paired by rows where these are
recorded (held-out losses), else both errors are taken together as if independent: on the same samples that calls some
true differences noise, and seldom the reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.stats import FEW_ROWS, Z95, stderr_of_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.report.results import Metrics, Results

__all__ = [
    "BASE",
    "COMPOSED",
    "LOSS",
    "LOSS_TASK",
    "STDERR",
    "Change",
    "Measure",
    "Row",
    "Trend",
    "difference",
    "has_few_rows",
    "lower_is_better",
    "measure_of",
    "model_names",
    "rows",
    "subject",
    "trend_of",
]

BASE = "base"
COMPOSED = "composed"
LOSS_TASK = "loss:"
LOSS = "loss"
STDERR = "_stderr"
COUNTS = frozenset({"tokens", "rows", "samples"})
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
class Measure:
    """A value and its standard error: None where that is unknown, and never 0 (`significance.stderr_of_share`)."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class Change:
    """Composed minus base, what that is worth, and its standard error, None where that is unknown."""

    delta: float
    trend: Trend
    stderr: float | None = None


@dataclass(frozen=True)
class Row:
    """One metric of one task, of all models that have it.

    Attributes:
        task: The task's name in results (`loss:math`, `arc_easy`).
        metric: The metric's name.
        measures: Model → what was measured.
        lower_is_better: Whether less of it is better.
        change: Composed against base, None where either is missing.
    """

    task: str
    metric: str
    measures: Mapping[str, Measure]
    lower_is_better: bool
    change: Change | None

    @property
    def subject(self) -> str:
        """The task for people: a held-out loss is named by its dataset."""
        return subject(self.task)


def measure_of(results: Results, model: str, task: str, metric: str) -> Measure | None:
    """Return what was measured, None where nothing was."""
    return _measure(results.table.get(model, {}).get(task, {}), metric)


def difference(results: Results, task: str, metric: str, model: str, against: str) -> Measure | None:
    """Return a model minus another one, None where either has no finite value."""
    new, old = (measure_of(results, one, task, metric) for one in (model, against))
    if new is None or old is None or not math.isfinite(new.value - old.value):
        return None
    if metric == LOSS and has_few_rows(results, model, task):
        return Measure(new.value - old.value)
    stderr = results.rows.stderr(task, model, against) if metric == LOSS else None
    if stderr is None and old.stderr is not None and new.stderr is not None:
        stderr = math.hypot(old.stderr, new.stderr)
    return Measure(new.value - old.value, stderr)


def has_few_rows(results: Results, model: str, task: str) -> bool:
    """Tell whether so few rows were evaluated on that the error of a difference is hardly known itself."""
    return results.table[model][task].get("rows", FEW_ROWS) < FEW_ROWS


def trend_of(delta: Measure, *, lower_is_better: bool) -> Trend:
    """Return what a difference is worth."""
    if delta.stderr is None:
        return Trend.UNKNOWN
    if abs(delta.value) <= Z95 * delta.stderr:
        return Trend.NOISE
    return Trend.BETTER if (delta.value < 0) == lower_is_better else Trend.WORSE


def subject(task: str) -> str:
    """Return a task's name for people: a held-out loss is named by its dataset."""
    return task.removeprefix(LOSS_TASK)


def lower_is_better(results: Results, task: str, metric: str) -> bool:
    """Tell whether less of a task's metric is better: as the task says, else as the metric's name does."""
    plain = metric.partition("@")[0]  # `metric@filter`
    said = results.higher_is_better.get(task, {}).get(plain)
    return plain in LOWER_IS_BETTER if said is None else not said


def model_names(results: Results) -> list[str]:
    """Return the models that were evaluated: base, composed, then the recipe's baselines and its vectors alone."""
    first = (BASE, COMPOSED, *results.baselines, *results.vectors)
    return list(dict.fromkeys(name for name in (*first, *sorted(results.table)) if name in results.table))


def rows(results: Results) -> list[Row]:
    """Return a row for each metric of each task: losses first, else in the order they were recorded."""
    tasks = dict.fromkeys(task for model in model_names(results) for task in results.table[model])
    ordered = sorted(tasks, key=lambda task: not task.startswith(LOSS_TASK))
    return [row for task in ordered for row in _rows_of(results, task)]


def _rows_of(results: Results, task: str) -> list[Row]:
    measured = {m: results.table[m][task] for m in model_names(results) if task in results.table[m]}
    names = dict.fromkeys(name for metrics in measured.values() for name in _values(metrics))
    return [_row(results, task, name, measured) for name in names]


def _row(results: Results, task: str, name: str, measured: Mapping[str, Metrics]) -> Row:
    lower = lower_is_better(results, task, name)
    delta = difference(results, task, name, COMPOSED, BASE)
    change = Change(delta.value, trend_of(delta, lower_is_better=lower), delta.stderr) if delta else None
    found = {model: measure for model, m in measured.items() if (measure := _measure(m, name))}
    return Row(task, name, found, lower, change)


def _values(metrics: Iterable[str]) -> list[str]:
    """Return the names that are values: neither standard errors nor counts."""
    return [name for name in metrics if not name.endswith(STDERR) and name not in COUNTS]


def _measure(metrics: Metrics, name: str) -> Measure | None:
    if name not in metrics:
        return None
    stderr = metrics.get(name + STDERR)
    if stderr is None or not math.isfinite(stderr):
        return Measure(metrics[name])
    if name.partition("@")[0] not in NO_SHARE:
        stderr = stderr_of_share(metrics[name], stderr, metrics.get("samples", 0.0))
    return Measure(metrics[name], stderr or None)  # of samples that are all alike, nobody knows it
