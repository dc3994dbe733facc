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
class _HeldOut:
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
    _refuse(recipe, lock.datasets, {name: task.scored for name, task in lock.tasks.items()})


def refuse_shared_files(recipe: Recipe, located: Located) -> None:
    """Refuse what `refuse_leaks` does as far as it shows before a file is read: one that is named for both.

    Raises:
        RecipeError: There are some.
    """

    def by_path(tag: str, path: Path) -> SourceFile:
        return SourceFile(tag, str(path.resolve()), path)  # whose path stands for its content

    datasets = {name: [by_path(*file) for file in files] for name, files in located.datasets.items()}
    tasks = {name: [by_path("", path) for path in task.scored] for name, task in located.closures.items()}
    _refuse(recipe, datasets, tasks)


def _refuse(recipe: Recipe, datasets: Files, tasks: Files) -> None:
    """Refuse a file with two uses, given those of datasets and probes and those that tasks are scored on."""
    users = _users(recipe, datasets)
    problems = [
        recipe.problem(held.key, f"{held.file} is {word} {users[use, held.digest]}", held.hint)
        for held in _held_out(recipe, datasets, tasks)
        for use, word in _MUST_NOT[held.use]
        if (use, held.digest) in users
    ]
    if problems:
        raise RecipeError(problems)


def _users(recipe: Recipe, datasets: Files) -> dict[tuple[str, str], str]:
    """What a file is for and its digest → the first dataset or probe that uses it so."""
    baselines = recipe.baselines.values()
    omegas = (*recipe.omegas.values(), *(b.alpha for b in baselines))
    tuned = "tune" in omegas or "single" in (b.method for b in baselines)
    limits = {n for n, probe in recipe.probes.items() if tuned and probe.max_loss_increase is not None}
    users: dict[tuple[str, str], str] = {}
    for name, files in datasets.items():
        for file in files:
            side = "limit" if name in limits else side_of(file) or "train"
            users.setdefault((side, file.digest), name)
    return users


def _held_out(recipe: Recipe, datasets: Files, tasks: Files) -> Iterator[_HeldOut]:
    for name, files in datasets.items():
        probe = recipe.probes.get(name)
        for file in files:
            side = side_of(file) or "train"
            key = (
                f"datasets.{name}.{side}"
                if probe is None
                else f"probes.{name}.{'hub' if probe.hub else 'path'}"
            )
            use = side if probe is None else "probe"
            hint = "give it rows of its own, or hold out a share such as 0.05"
            yield _HeldOut(key, use, file.path.name, file.digest, hint)
    for name, files in tasks.items():
        for file in files:
            what = f"{file.path.name}, which the task {name} judges by,"
            hint = "give the task rows of its own, or the dataset's test file"
            yield _HeldOut("evaluate.tasks", "test", what, file.digest, hint)
