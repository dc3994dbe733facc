"""The scores of groups of tasks, made of what is recorded of their tasks; as lm-eval's own are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dem_build.lock.task_groups import Score, TaskGroup

    Metrics = dict[str, float]

STDERR = "_stderr"
SAMPLES = "samples"


def group_scores(groups: Mapping[str, TaskGroup], tasks: Mapping[str, Metrics]) -> dict[str, Metrics]:
    """The metrics of each group of which all tasks are measured, of one model: task → metric → value."""
    found = {}
    for name, group in groups.items():
        members = [tasks[task] for task in group.tasks if task in tasks]
        # A mean of some of them would be taken for that of all.
        if len(members) < len(group.tasks):
            continue
        metrics = {key: value for score in group.scores for key, value in _scored(score, members)}
        if metrics:
            found[name] = metrics | {SAMPLES: math.fsum(member.get(SAMPLES, 0.0) for member in members)}
    return found


def group_directions(
    groups: Mapping[str, TaskGroup], tasks: Mapping[str, Mapping[str, bool]]
) -> dict[str, dict[str, bool]]:
    """Group → metric → whether more of it is better, as its tasks say; where they disagree, as the first says."""
    found: dict[str, dict[str, bool]] = {}
    for name, group in groups.items():
        for task in reversed([*group.tasks]):
            found.setdefault(name, {}).update(tasks.get(task, {}))
    return found


def _scored(score: Score, members: Sequence[Metrics]) -> Iterator[tuple[str, float]]:
    """A metric of a group, of each filter, and its standard error. Tasks without it do not count."""
    for name in _names(score, members):
        having = [m for m in members if _own(m, name) is not None]
        values = [m[_own(m, name) or name] for m in having]
        sizes = [m.get(SAMPLES, 0.0) for m in having]
        weights = sizes if score.weighted else [1.0] * len(sizes)
        if not values or not math.fsum(weights):
            continue
        yield name, math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)
        errors = [m.get((_own(m, name) or name) + STDERR) for m in having]
        known = [e for e in errors if e is not None]
        if len(known) == len(errors) and (error := _error(known, sizes, weighted=score.weighted)) is not None:
            yield name + STDERR, error


def _own(metrics: Metrics, name: str) -> str | None:
    """What a task calls a metric of a filter: of its first filter the metric's own name."""
    plain = name.partition("@")[0]
    return name if name in metrics else plain if plain in metrics and "@" not in name else None


def _names(score: Score, members: Iterable[Metrics]) -> list[str]:
    """The names of a metric that tasks have: its own, which is of their first filter, and `metric@filter`."""
    known = dict.fromkeys(
        key
        for metrics in members
        for key in metrics
        if not key.endswith(STDERR) and key.partition("@")[0] == score.metric
    )
    if score.filters is None:
        return list(known)
    # Which filter is a task's first no record says: one that has no name of its own is that one.
    named = [f"{score.metric}@{f}" if f"{score.metric}@{f}" in known else score.metric for f in score.filters]
    return [name for name in dict.fromkeys(named) if name in known]


def _error(errors: Sequence[float], sizes: Sequence[float], *, weighted: bool) -> float | None:
    """The standard error of a group's mean.

    Weighted by documents it is that of the pooled variance, √(Σ (nᵢ - 1) nᵢ sᵢ² / (Σ nᵢ - k) / Σ nᵢ) of k tasks; of
    tasks that count alike √(Σ sᵢ²) / k. Both are lm-eval's.
    """
    if not weighted:
        return math.sqrt(math.fsum(e * e for e in errors)) / len(errors)
    total = math.fsum(sizes)
    if total <= len(sizes):
        return None
    pooled = math.fsum((n - 1) * n * e * e for n, e in zip(sizes, errors, strict=True)) / (total - len(sizes))
    return math.sqrt(pooled / total)
