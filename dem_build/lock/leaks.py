"""Refuses a build whose judgement would be worth nothing: a file that is both judged by and learned from.

Files are compared by their content, so a copy is the same file. A held-out test set that is an evaluation task's data
too is fine: both judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.action import SourceFile
from dem_build.data.sources import side_of
from dem_build.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dem_build.lock.lock import Located, Lock
    from dem_build.recipe import Recipe

    Files = Mapping[str, Sequence[SourceFile]]

__all__ = ["refuse_leaks", "refuse_shared_files"]

_SEPARATE = "give it rows of its own, or hold out a share such as 0.05"
_TRAINED = ("train", "also what is trained on for")
_CHOSEN = ("validation", "also the validation set of")
_LIMIT = ("limit", "also what limits the search for ω, the probe")
# What a file is held out for → uses that it must not have too, and how to say so.
_MUST_NOT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "train": (),
    "validation": (_TRAINED,),
    "probe": (_TRAINED, _CHOSEN),
    "test": (_TRAINED, _CHOSEN, _LIMIT),
}


@dataclass(frozen=True)
class _Judge:
    """A file that is held out: the recipe's key that names it, for what, and how to mend its being learned from."""

    key: str
    use: str
    file: str
    digest: str
    hint: str


def refuse_leaks(recipe: Recipe, lock: Lock) -> None:
    """Refuse files that are held out and also trained on, or that judge and are also chosen by.

    Raises:
        RecipeError: There are some; all of them, with the names of both uses.
    """
    _refuse(recipe, lock.datasets, {name: task.judges for name, task in lock.tasks.items()})


def refuse_shared_files(recipe: Recipe, located: Located) -> None:
    """Refuse what `refuse_leaks` does as far as it shows before a file is read: one that is named for both.

    Raises:
        RecipeError: There are some.
    """
    datasets = {name: [_by_path(*file) for file in files] for name, files in located.datasets.items()}
    tasks = {name: [_by_path("", path) for path in task.judges] for name, task in located.closures.items()}
    _refuse(recipe, datasets, tasks)


def _by_path(tag: str, path: Path) -> SourceFile:
    """Return a file whose path stands for its content."""
    return SourceFile(tag, str(path.resolve()), path)


def _refuse(recipe: Recipe, datasets: Files, tasks: Files) -> None:
    """Refuse a file with two uses, given those of datasets and probes and those that tasks judge by."""
    users = _users(recipe, datasets)
    problems = [
        recipe.problem(judge.key, f"{judge.file} is {word} {users[use, judge.digest]}", judge.hint)
        for judge in (*_held_out(recipe, datasets), *_task_files(tasks))
        for use, word in _MUST_NOT[judge.use]
        if (use, judge.digest) in users
    ]
    if problems:
        raise RecipeError(problems)


def _users(recipe: Recipe, datasets: Files) -> dict[tuple[str, str], str]:
    """Return what a file is for and its digest → the first dataset or probe that uses it so."""
    omegas = [*(d.omega for d in recipe.datasets.values()), *(v.omega for v in recipe.vectors.values())]
    baselines = recipe.baselines.values()
    tuned = "tune" in (*omegas, *(b.alpha for b in baselines)) or "single" in (b.method for b in baselines)
    limits = {n for n, probe in recipe.probes.items() if tuned and probe.max_loss_increase is not None}
    users: dict[tuple[str, str], str] = {}
    for name, files in datasets.items():
        for file in files:
            side = "limit" if name in limits else side_of(file) or "train"
            users.setdefault((side, file.digest), name)
    return users


def _held_out(recipe: Recipe, datasets: Files) -> Iterator[_Judge]:
    for name, files in datasets.items():
        for file in files:
            side = side_of(file) or "train"
            use = "probe" if name in recipe.probes else side
            yield _Judge(_key(recipe, name, side), use, file.path.name, file.digest, _SEPARATE)


def _task_files(tasks: Files) -> Iterator[_Judge]:
    for name, files in tasks.items():
        for file in files:
            what = f"{file.path.name}, which the task {name} judges by,"
            hint = "give the task rows of its own, or the dataset's test file"
            yield _Judge("evaluate.tasks", "test", what, file.digest, hint)


def _key(recipe: Recipe, name: str, side: str) -> str:
    """Return the key that names a file held out whole."""
    if name in recipe.probes:
        return f"probes.{name}.{'hub' if recipe.probes[name].hub else 'path'}"
    return f"datasets.{name}.{side}"
