"""What a lock has of an evaluation task: the files that give it its meaning, and the commit of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.lock import hub

if TYPE_CHECKING:
    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.lock.tasks import Closure

__all__ = ["LockedTask", "lock_task", "pinned_commit"]


@dataclass(frozen=True)
class LockedTask:
    """An evaluation task's closure.

    Attributes:
        lm_eval: Version of lm-eval that gives the task its meaning.
        local: Whether the task comes from files of the user, which are code.
        files: The task's YAML and all that it refers to.
        dataset: The hub dataset that it reads, None where its data are local files.
        dataset_revision: The commit of that dataset.
        judges: Those of its files that hold what a model is scored on.
    """

    lm_eval: str
    local: bool
    files: tuple[SourceFile, ...]
    dataset: str | None = None
    dataset_revision: str | None = None
    judges: tuple[SourceFile, ...] = ()


def lock_task(closure: Closure, files: tuple[SourceFile, ...], pinned: JSON) -> LockedTask:
    """Return what is locked of a task.

    Args:
        closure: Its files, and the dataset that it reads.
        files: The files, hashed.
        pinned: What the lock that is there has of it; empty where it has nothing.

    Raises:
        UsageError: A dataset that is not pinned, and that the hub cannot be asked for.
    """
    from dem_build.lock.tasks import lm_eval_version  # noqa: PLC0415  a recipe without tasks need not wait for their parser

    revision = None
    if closure.dataset is not None:
        revision = pinned_commit(closure, pinned) or hub.dataset_commit(closure.dataset)
    judges = tuple(f for f in files if f.path in closure.judges)
    return LockedTask(lm_eval_version(), closure.local, files, closure.dataset, revision, judges)


def pinned_commit(closure: Closure, pinned: JSON) -> str | None:
    """Return the commit that a lock has of a task's dataset, None where it has none."""
    return pinned.get("dataset_revision") if pinned.get("dataset") == closure.dataset else None
