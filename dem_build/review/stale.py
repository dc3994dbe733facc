"""What a lock says of files that git has, held against those files: a lock that nobody wrote anew is out of date."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from dem_build.lock.absent import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from dem_build.action import SourceFile
    from dem_build.digest import Digest
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe
    from dem_build.review.repository import GitBlob, Repository

_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\n")
MOST_POINTER = 1024
MOST_LINKS = 40


@dataclass
class Digests:
    """SHA-256 of files that git has, each found once. Of a pointer of Git LFS, it is that of what it points to."""

    repository: Repository
    known: dict[str, str] = field(default_factory=dict)

    def of(self, blob: GitBlob) -> str:
        """The digest of a file."""
        if blob.oid not in self.known:
            data = self.repository.read(blob)
            pointer = _POINTER.match(data) if blob.size <= MOST_POINTER else None
            self.known[blob.oid] = pointer[1].decode() if pointer else hashlib.sha256(data).hexdigest()
        return self.known[blob.oid]


def stale(
    recipe: Recipe, lock: Lock, files: Mapping[str, GitBlob], digests: Digests
) -> dict[str, tuple[Digest, ...]]:
    """The names in a lock (`datasets.math`) of which git has other files than it says → what those files hash to.

    Files that git has not are on somebody's disk: of those the lock is believed.
    """
    root = digests.repository.root
    groups: list[tuple[str, Iterable[SourceFile]]] = [("base", lock.base.files)]
    groups += [(f"datasets.{name}", found) for name, found in lock.datasets.items()]
    groups += [(f"vectors.{name}", found) for name, found in lock.vectors.items()]
    groups += [(f"tasks.{name}", task.files) for name, task in lock.tasks.items() if task.local]
    found: dict[str, list[Digest]] = {}
    for name, sources in groups:
        for source in sources:
            place = _inside(source.path, root) if source.hub is None else None
            blob = _followed(place, files, digests.repository) if place else None
            if blob is not None and digests.of(blob) != source.digest:
                found.setdefault(name, []).append(digests.of(blob))
    locked = {place for s in _data(lock) if (place := _inside(s.path, root))}
    for name, pattern in _patterns(recipe):
        folder = PurePosixPath(_inside(recipe.folder, root) or ".")
        for path in set(_matching(folder / pattern, files)) - locked:
            found.setdefault(name, []).append(files[path].oid)
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def _followed(path: str, files: Mapping[str, GitBlob], repository: Repository) -> GitBlob | None:
    """The file that a path leads to, through the links that git has; None where that is none of git's."""
    for _ in range(MOST_LINKS):
        steps = [path, *map(str, PurePosixPath(path).parents)]
        at = next((step for step in steps if step in files), None)
        if at is None or files[at].regular:
            return files[path] if at == path else None
        to = os.fsdecode(repository.read(files[at]))
        path = os.path.normpath(PurePosixPath(at).parent / to / PurePosixPath(path).relative_to(at))
    return None


def _inside(path: Path, root: Path) -> str | None:
    """A path from the root of the repository, None where it lies elsewhere."""
    whole = os.path.normpath(path)
    prefix = f"{root}{os.sep}"
    return whole.removeprefix(prefix) if whole.startswith(prefix) else None


def _data(lock: Lock) -> Iterator[SourceFile]:
    for sources in lock.datasets.values():
        yield from (source for source in sources if source.hub is None)


def _patterns(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each pattern of a recipe's data: what it matches is found anew by every lock."""
    for name, table in recipe.sources.items():
        held = (getattr(table, side, None) for side in ("validation", "test"))
        for text in (*(rows.path for rows in table.origins.values()), *held):
            if isinstance(text, str) and any(sign in text for sign in "*?["):
                yield f"datasets.{name}", text


def _matching(pattern: PurePosixPath, files: Mapping[str, GitBlob]) -> Iterator[str]:
    parts = PurePosixPath(os.path.normpath(pattern)).parts
    if parts[:1] not in (("..",), ("/",), ("~",)):
        yield from (path for path in files if matches(parts, PurePosixPath(path).parts))
