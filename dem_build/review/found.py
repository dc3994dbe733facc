"""Which recipes two revisions have, and which of one is which of the other."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dem_build.errors import RecipeError, UsageError
from dem_build.recipe import toml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dem_build.review.repository import GitBlob, Repository

MOST_LOCK = 50_000_000
"""Bytes of a lock; a larger file is none."""
_TABLES = ("datasets", "vectors")
# Of what is no TOML: whoever broke a recipe's syntax is to hear of it.
_BASE = re.compile(r"^\s*\[\s*base\s*\]", re.MULTILINE)
_PARTS = re.compile(r"^\s*\[\s*(?:datasets|vectors)\s*\.", re.MULTILINE)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe at a revision.

    Attributes:
        path: From the root of the repository.
        lock: What its lock holds; None where there is none.
    """

    path: str
    text: bytes
    lock: bytes | None


@dataclass(frozen=True)
class RecipePair:
    """A recipe at both revisions; None where it is not there."""

    before: RecipeFile | None
    after: RecipeFile | None

    @property
    def path(self) -> str:
        """Where it is now, or was."""
        one = self.after or self.before
        assert one is not None, "a pair has a recipe"
        return one.path


def is_recipe(text: bytes) -> bool:
    """Whether a file is meant as a recipe: a TOML with `[base]` and a table of datasets or vectors."""
    if len(text) > toml.MOST_BYTES:
        return False
    try:
        _, tables = toml.parse(text, Path("recipe.toml"), "recipe")
    except RecipeError:
        plain = text.decode("utf-8", errors="replace")
        return _BASE.search(plain) is not None and _PARTS.search(plain) is not None
    return isinstance(tables.get("base"), dict) and any(isinstance(tables.get(n), dict) for n in _TABLES)


def recipes_at(repository: Repository, files: Mapping[str, GitBlob]) -> dict[str, RecipeFile]:
    """Path → each recipe among the files of a revision."""
    found = {}
    for path, blob in files.items():
        if not path.endswith(".toml") or not blob.regular or blob.size > toml.MOST_BYTES:
            continue
        text = repository.read(blob)
        if is_recipe(text):
            lock = files.get(str(PurePosixPath(path).with_suffix(".lock")))
            whole = lock is not None and lock.regular and lock.size <= MOST_LOCK
            locked = repository.read(lock) if lock is not None and whole else None
            found[path] = RecipeFile(path, text, locked)
    return found


def pair_recipes(
    before: Mapping[str, RecipeFile],
    after: Mapping[str, RecipeFile],
    renames: Mapping[str, str],
    wanted: Sequence[str] = (),
) -> list[RecipePair]:
    """The recipes of two revisions, each with what it was, by the path that it has now.

    Args:
        before: Those of the base revision.
        after: Those of the head.
        renames: Old path → new path, of files that were moved.
        wanted: Paths or patterns of paths from the root of the repository; none means all.

    Raises:
        UsageError: A pattern that no recipe of either revision matches.
    """
    moved = {new: old for old, new in renames.items() if old in before and new in after and new not in before}
    pairs = [RecipePair(before.get(moved.get(path, path)), recipe) for path, recipe in after.items()]
    kept = {*after, *moved.values()}
    pairs += [RecipePair(recipe, None) for path, recipe in before.items() if path not in kept]
    pairs.sort(key=lambda pair: pair.path)
    for pattern in wanted:
        if not any(_matches(pair, pattern) for pair in pairs):
            known = ", ".join(pair.path for pair in pairs[:5]) or "none"
            raise UsageError(f"neither revision has a recipe `{pattern}`", hint=f"the recipes are: {known}")
    return [p for p in pairs if not wanted or any(_matches(p, pattern) for pattern in wanted)]


def _matches(pair: RecipePair, pattern: str) -> bool:
    paths = [one.path for one in (pair.before, pair.after) if one is not None]
    return any(path == pattern or fnmatch.fnmatchcase(path, pattern) for path in paths)
