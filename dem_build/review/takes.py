"""How much a stranger's build would take, at most: counted of its files and its recipe before anything runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.errors import DataError
from dem_build.review.untrusted import Takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dem_build.action import SourceFile
    from dem_build.estimate.estimates import Estimate
    from dem_build.lock.lock import Lock
    from dem_build.plan import Plan
    from dem_build.recipe import Recipe, Train

BLOCK = 1 << 20
STATE = 12 / 2
"""A checkpoint's bytes for each byte of a base in bfloat16: weights in float32, and AdamW's two moments."""


def takes_of(recipe: Recipe, lock: Lock, plan: Plan, estimates: Iterable[Estimate], *, trains: bool) -> Takes:
    """What is due takes, at most.

    Args:
        recipe: The recipe.
        lock: Its files.
        plan: What is due.
        estimates: What is expected of it.
        trains: Whether trainings run, too; else neither they nor what takes them does.
    """
    due = {verdict.action.name for verdict in plan.due}
    rows = {name: _rows(table.max_samples, lock.datasets[name]) for name, table in recipe.sources.items()}
    trainings = list(_trainings(recipe, rows, due)) if trains else []
    steps = sum(count for _, count in trainings)
    tokens = sum(train.global_batch_size * train.max_length * count for train, count in trainings)
    return Takes(
        rows=sum(count for name, count in rows.items() if f"data:{name}" in due),
        tokens=tokens + _answered(recipe, due),
        steps=steps,
        disk=_written(lock, plan, estimates, due, trains=trains),
    )


def _trainings(recipe: Recipe, rows: dict[str, float], due: set[str]) -> Iterator[tuple[Train, float]]:
    """Each training that is due, with its steps."""
    alone = {name: (train := recipe.train_of(name), _length(train, rows[name])) for name in recipe.datasets}
    yield from (training for name, training in alone.items() if f"vector:{name}" in due)
    for name in (*recipe.stages, *recipe.baselines):
        if f"vector:{name}" not in due:
            continue
        train = recipe.train_of(name)
        if recipe.mixture_of(name).train.length is not None:
            yield train, _length(train, sum(rows[n] for n in recipe.mixed_by(name)))
            continue
        # As long as the trainings of all datasets together, those too that are recorded.
        sequences = sum(t.global_batch_size * steps for t, steps in alone.values())
        tokens = sum(t.global_batch_size * t.max_length * steps for t, steps in alone.values())
        yield train, max(sequences, tokens / train.max_length) / train.global_batch_size


def _length(train: Train, rows: float) -> float:
    return float(train.max_steps or _steps(train, rows))


def _steps(train: Train, rows: float) -> float:
    count = (train.num_train_epochs or 0.0) * rows / train.global_batch_size
    return math.ceil(count) if math.isfinite(count) else math.inf


def _answered(recipe: Recipe, due: set[str]) -> float:
    """Tokens that models answer to prompts."""
    evaluate = recipe.evaluate
    asked = [name for name in due if name.startswith("sample:")]
    if evaluate is None or not asked:
        return 0.0
    prompts = evaluate.prompts
    return float(
        len(asked) * (prompts if isinstance(prompts, int) else len(prompts)) * evaluate.max_new_tokens
    )


def _written(lock: Lock, plan: Plan, estimates: Iterable[Estimate], due: set[str], *, trains: bool) -> float:
    """Bytes of models, vectors and checkpoints; where nobody knows a model's size, that of the base's own files."""
    known = {e.name: e for e in estimates}
    base = float(sum(_size(source) for source in lock.base.files))
    total = 0.0
    for name in due:
        kind = plan.verdicts[name].action.kind
        if kind.trains and not trains:
            continue
        estimate = known.get(name)
        if estimate is not None and estimate.disk is not None:
            total += estimate.disk + (estimate.scratch or 0)
        elif kind.writes_model:
            total += base * (1 + STATE if kind.trains else 1)
    return total


def _size(source: SourceFile) -> int:
    """Bytes of a file that is here; what is not, or on a hub that a maintainer listed, counts for nothing."""
    try:
        return source.path.stat().st_size if source.hub is None else 0
    except OSError:
        return 0


def _rows(most: int | None, sources: Iterable[SourceFile]) -> float:
    """Rows that are used of some files, at most."""
    limit = math.inf if most is None else float(most)
    total = 0.0
    for source in sources:
        if total >= limit:
            return limit
        total += math.inf if source.hub is not None else _counted(source, source.tag.rpartition(":")[2])
    return min(total, limit)


def _counted(source: SourceFile, kind: str) -> float:
    """Rows of a file, at most; a file that is not here has none, as nothing reads it."""
    try:
        if kind == "parquet":
            from dem_build.data.rows import parquet_rows  # noqa: PLC0415  few recipes have one

            return float(parquet_rows(source))
        lines = 1
        with source.path.open("rb") as file:
            while block := file.read(BLOCK):
                # No row of a list in one line of JSON is shorter than its two braces; of CSV, either may end a row.
                lines += block.count(b"{" if kind == "json" else b"\n") + kind.count("csv") * block.count(
                    b"\r"
                )
    except FileNotFoundError:
        return 0.0
    except (OSError, DataError):
        return math.inf
    return float(lines)
