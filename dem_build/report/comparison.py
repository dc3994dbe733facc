"""Results → rows that put models side by side, with the change against the base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.report.results import Metrics, Results

__all__ = [
    "BASE",
    "COMPOSED",
    "LOSS_TASK",
    "STDERR",
    "Change",
    "Measure",
    "Row",
    "Trend",
    "errors",
    "lower_is_better",
    "model_names",
    "rows",
    "subject",
    "trend_of",
]

BASE = "base"
COMPOSED = "composed"
LOSS_TASK = "loss:"
STDERR = "_stderr"
COUNTS = frozenset({"tokens", "rows", "samples"})
# Where a task does not say: the metrics that lm-eval registers with higher_is_better=False, and the held-out loss.
LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
)


class Trend(StrEnum):
    """What a change is worth."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"


@dataclass(frozen=True)
class Measure:
    """A value and its standard error, None where that is unknown."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class Change:
    """Composed minus base, what that is worth, and both standard errors taken together, None where one is unknown."""

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
    """

    task: str
    metric: str
    measures: Mapping[str, Measure]
    lower_is_better: bool

    @property
    def subject(self) -> str:
        """The task for people: a held-out loss is named by its dataset."""
        return subject(self.task)

    @property
    def change(self) -> Change | None:
        """Composed against base, None where either is missing.

        A change within the two standard errors taken together (as if independent) is noise. Both models saw
        the same rows, so this calls some true changes noise, and seldom the reverse.
        """
        old, new = self.measures.get(BASE), self.measures.get(COMPOSED)
        if old is None or new is None or not math.isfinite(new.value - old.value):
            return None
        trend = trend_of(old, new, lower_is_better=self.lower_is_better)
        known = old.stderr is not None and new.stderr is not None
        return Change(new.value - old.value, trend, errors(old, new) if known else None)


def errors(one: Measure, other: Measure) -> float:
    """Return two standard errors taken together, as if independent; one that is unknown counts as none."""
    return math.hypot(one.stderr or 0.0, other.stderr or 0.0)


def trend_of(old: Measure, new: Measure, *, lower_is_better: bool) -> Trend:
    """Return what a change is worth: within both standard errors taken together it is noise."""
    delta = new.value - old.value
    if abs(delta) <= errors(old, new):
        return Trend.NOISE
    return Trend.BETTER if (delta < 0) == lower_is_better else Trend.WORSE


def subject(task: str) -> str:
    """Return a task's name for people: a held-out loss is named by its dataset."""
    return task.removeprefix(LOSS_TASK)


def lower_is_better(results: Results, task: str, metric: str) -> bool:
    """Tell whether less of a task's metric is better: as the task says, else as the metric's name does."""
    plain = metric.partition("@")[0]  # `metric@filter`
    said = results.higher_is_better.get(task, {}).get(plain)
    return plain in LOWER_IS_BETTER if said is None else not said


def model_names(results: Results) -> list[str]:
    """Return the models that were evaluated: base, composed, then all others by name."""
    first = [name for name in (BASE, COMPOSED) if name in results.table]
    return first + sorted(set(results.table) - set(first))


def rows(results: Results) -> list[Row]:
    """Return a row for each metric of each task: losses first, else in the order they were recorded."""
    tasks = dict.fromkeys(task for model in model_names(results) for task in results.table[model])
    ordered = sorted(tasks, key=lambda task: not task.startswith(LOSS_TASK))
    return [row for task in ordered for row in _rows_of(results, task)]


def _rows_of(results: Results, task: str) -> list[Row]:
    measured = {m: results.table[m][task] for m in model_names(results) if task in results.table[m]}
    names = dict.fromkeys(name for metrics in measured.values() for name in _values(metrics))
    return [
        Row(
            task,
            name,
            {model: _measure(m, name) for model, m in measured.items() if name in m},
            lower_is_better(results, task, name),
        )
        for name in names
    ]


def _values(metrics: Iterable[str]) -> list[str]:
    """Return the names that are values: neither standard errors nor counts."""
    return [name for name in metrics if not name.endswith(STDERR) and name not in COUNTS]


def _measure(metrics: Metrics, name: str) -> Measure:
    stderr = metrics.get(name + STDERR)
    return Measure(metrics[name], stderr if stderr is not None and math.isfinite(stderr) else None)
