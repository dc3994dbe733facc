"""What a stranger's recipe may read, and how much it may take.

A recipe without local task files is data, and to build it runs no code of its author. But it can *read*: what it names
is opened with the rights of whoever runs `dem`, and rows come back in reports and comments. So every file is one that
git has at the head, inside of the repository and not behind a link that leads out of it; every name on a hub is on a
list of the base revision; and what is due is bounded before anything runs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dem_build.errors import RecipeError
from dem_build.lock.absent import is_absent
from dem_build.paths import may_be_hub_id
from dem_build.report.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.action import SourceFile
    from dem_build.errors import Problem
    from dem_build.lock.lock import Lock, LockedTask
    from dem_build.recipe import Recipe
    from dem_build.review.policy import Untrusted
    from dem_build.review.repository import GitBlob

INSIDE = "name a file of the repository; see docs/ci.md for what a stranger's recipe may read"
LISTED = "a maintainer adds it to `hub` in dem-ci.toml, on the branch that this is to be merged into"
CODE = "local task files are code, which runs for members of the project alone"


@dataclass(frozen=True)
class Boundary:
    """The repository, as what a stranger's recipe may read.

    Attributes:
        root: Its folder, without links.
        files: Path → file, at the head.
        policy: What may be named beside them.
    """

    root: Path
    files: Mapping[str, GitBlob]
    policy: Untrusted

    def written(self, text: str, folder: PurePosixPath) -> str | None:
        """What is wrong with a path or pattern of a recipe as it is written; None where nothing is.

        Args:
            text: The path.
            folder: The recipe's folder, from the root of the repository.
        """
        if text.startswith("~"):
            return f"`{text}` is in somebody's home folder"
        if text.startswith("/"):
            return f"`{text}` is an absolute path"
        parts = PurePosixPath(os.path.normpath(folder / text)).parts
        if parts[:1] == ("..",):
            return f"`{text}` leads out of the repository"
        return f"`{text}` is git's own" if ".git" in (part.lower() for part in parts) else None

    def opened(self, path: Path) -> str | None:
        """What is wrong with reading a file; None where nothing is. One that is not here is read by nobody."""
        lexical = Path(os.path.normpath(path))
        if not lexical.is_relative_to(self.root):
            return "lies outside of the repository"
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.root):
            return f"is a link that leads out of the repository, to {real}"
        blob = self.files.get(real.relative_to(self.root).as_posix())
        if os.path.lexists(path) and (blob is None or not blob.regular):
            return "is no file that git has at this revision"
        return None


def refuse_names(recipe: Recipe, boundary: Boundary) -> None:
    """Refuse what a recipe names, before anything of it is looked for.

    Raises:
        RecipeError: All of it, at its lines.
    """
    problems = [*_paths(recipe, boundary), *_names(recipe, boundary)]
    if recipe.evaluate is not None and recipe.evaluate.include_path is not None:
        problems.append(recipe.problem("evaluate.include_path", "names task files, which are code", CODE))
    if problems:
        raise RecipeError(problems)


def refuse_sources(recipe: Recipe, lock: Lock, boundary: Boundary) -> None:
    """Refuse what a recipe and its lock would read: a lock, too, names files and repositories.

    Raises:
        RecipeError: All of it.
    """
    problems = []
    for key, source in _sources(lock):
        if source.hub is not None:
            if not boundary.policy.allows(source.hub.repo):
                problems.append(recipe.problem(key, _unlisted(source.hub.repo), LISTED))
        elif (what := boundary.opened(source.path)) is not None:
            problems.append(recipe.problem(key, f"{source.path} {what}", INSIDE))
    for name, task in lock.tasks.items():
        if task.local:
            problems.append(recipe.problem("evaluate.tasks", f"`{name}` is of local task files", CODE))
        problems += [
            recipe.problem("evaluate.tasks", _unlisted(dataset), LISTED)
            for dataset in sorted(filter(None, {task.dataset, _read_by(name, task)}))
            if not boundary.policy.allows(dataset)
        ]
    if problems:
        raise RecipeError(problems)


def without_tokens() -> None:
    """Make the hub's client ask as nobody: no token of the environment, and none of its own file.

    It is read when the client is first imported, which is by what asks for the first name.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # noqa: S105  a switch, not a password
    os.environ["HF_TOKEN_PATH"] = os.devnull


def _paths(recipe: Recipe, boundary: Boundary) -> Iterator[Problem]:
    folder = PurePosixPath(recipe.folder.relative_to(boundary.root).as_posix())
    named: list[tuple[str, str | None]] = [("base.chat_template", recipe.base.chat_template)]
    if not may_be_hub_id(recipe.base.model):
        named.append(("base.model", recipe.base.model))
    for name, table in recipe.sources.items():
        key_of = partial(recipe.source_key, name)
        sides = [(key_of(side), getattr(table, side, None)) for side in ("validation", "test")]
        sides += [(key_of(key, "path"), rows.path) for key, rows in table.origins.items()]
        named += [(key, value) for key, value in sides if isinstance(value, str)]
    for name, vector in recipe.vectors.items():
        if not may_be_hub_id(vector.origin):
            named.append((f"vectors.{name}.{vector.source}", vector.origin))
    for key, text in named:
        if text is not None and (what := boundary.written(text, folder)) is not None:
            yield recipe.problem(key, what, INSIDE)


def _names(recipe: Recipe, boundary: Boundary) -> Iterator[Problem]:
    named = [("base.model", recipe.base.model)]
    named += [(f"vectors.{name}.{v.source}", v.origin) for name, v in recipe.vectors.items()]
    on_hub = [
        (key, name) for key, name in named if may_be_hub_id(name) and not _is_folder(name, recipe, boundary)
    ]
    on_hub += [
        (recipe.source_key(name, key, "hub"), rows.hub)
        for name, table in recipe.sources.items()
        for key, rows in table.origins.items()
        if rows.hub is not None
    ]
    for key, name in on_hub:
        if not boundary.policy.allows(name):
            yield recipe.problem(key, _unlisted(name), LISTED)


def _is_folder(name: str, recipe: Recipe, boundary: Boundary) -> bool:
    """Whether `org/name` is a folder of the repository."""
    folder = f"{(recipe.folder / name).relative_to(boundary.root).as_posix()}/"
    return any(path.startswith(folder) for path in boundary.files)


def _read_by(name: str, task: LockedTask) -> str | None:
    """The dataset on a hub that a task of lm-eval's reads, whatever a lock says that it reads.

    None where it reads none, or where its file is not here: then it does not run.
    """
    from dem_build.lock.tasks import TASK_MARK, closure_of  # noqa: PLC0415  few recipes have a task

    own = next((file.path for file in task.files if file.tag.startswith(TASK_MARK)), None)
    return None if task.local or own is None or is_absent(own) else closure_of(own, name).dataset


def _unlisted(name: str) -> str:
    return f"`{name}` on the hub is on no list of the base revision"


def _sources(lock: Lock) -> Iterator[tuple[str, SourceFile]]:
    """Every file that a lock names, with a key of the recipe."""
    groups: list[tuple[str, Iterable[SourceFile]]] = [("base.model", lock.base.files)]
    groups += [(f"datasets.{name}", files) for name, files in lock.datasets.items()]
    groups += [(f"vectors.{name}", files) for name, files in lock.vectors.items()]
    for key, files in groups:
        yield from ((key, file) for file in files)


@dataclass(frozen=True)
class Takes:
    """What a stranger's build would take, at most.

    Attributes:
        rows: Rows of the datasets that are due; infinite where nobody knows.
        tokens: Tokens that trainings read, and that models answer.
        disk: Bytes that it would write.
    """

    rows: float = 0
    tokens: float = 0
    steps: float = 0
    disk: float = 0


def refuse_excess(recipe: Recipe, takes: Takes, policy: Untrusted) -> None:
    """Refuse a build that may take more than the base revision allows.

    Raises:
        RecipeError: All of what is too much.
    """
    bounds = (
        ("datasets", "rows", takes.rows, policy.max_rows),
        ("train", "tokens", takes.tokens, policy.max_tokens),
        ("train", "steps", takes.steps, policy.max_steps),
        ("base", "disk", takes.disk, policy.max_disk),
    )
    problems = []
    for key, word, value, most in bounds:
        if value <= most:
            continue
        much = "nobody knows how many" if math.isinf(value) else f"{value:,.0f}"
        told = (
            f"{size(value)} of {word}, and at most {size(most)}"
            if word == "disk"
            else f"{much} {word}, and at most {most:,}"
        )
        hint = f"max_samples bounds rows; a maintainer raises max_{word} in dem-ci.toml"
        problems.append(recipe.problem(key, f"what is due takes {told} are a stranger's", hint))
    if problems:
        raise RecipeError(problems)
