"""Local files that are not here: which entry of a lock tells of what a recipe names, and with it their digests.

A lock says of each file where it lay and what its bytes were. What lies here now is read and counts, whatever a lock
says; only where nothing lies at a path that a recipe names is the lock asked. An entry belongs to a name if its paths
are those that the name stands for: a path that has changed since is not in the lock, and its file is missing.
"""

from __future__ import annotations

import fnmatch
import operator
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.lock.base import CHAT_TEMPLATE, GGUF
from dem_build.paths import expanded, is_local, may_be_hub_id
from dem_build.store import Hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dem_build.digest import JSON, Digest
    from dem_build.lock.task_groups import TaskGroup
    from dem_build.lock.tasks import Closure

    Same = Callable[[tuple[str, ...], tuple[str, ...]], bool]
    Entry = tuple[str, str, Digest]  # tag, path as the lock has it, digest

_SIDES = ("", "validation:", "test:")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Absent:
    """What a lock tells of files that are not here.

    Args:
        document: The lock; None where there is none, which tells of nothing.
        folder: Of the recipe and its lock.
        hints: What this host has hashed before; by default of all it was asked.
        alone: Whether the lock alone counts: then every file counts as absent, and nothing is looked at.

    Attributes:
        digests: The files that were taken from the lock → their digests.
    """

    def __init__(
        self, document: JSON | None, folder: Path, hints: Hints | None = None, *, alone: bool = False
    ) -> None:
        self.alone = alone
        self._hints = hints or Hints()
        self.digests: dict[Path, Digest] = {}
        self._document = document
        self._folder = folder

    def is_local(self, name: str, model: str, *, revision: bool) -> bool:
        """Whether a recipe's model is a file or folder here, or was one when it was locked.

        Args:
            name: Its name in the lock: `base`, `vectors.code`.
            model: As the recipe writes it.
            revision: Whether the recipe gives a revision of it, which only a hub has.
        """
        if not may_be_hub_id(model) or (not self.alone and is_local(model, self._folder)):
            return True
        return not revision and bool(self.model(name, model))

    def model(self, name: str, model: str) -> dict[str, Digest]:
        """Tag → digest of the files that a lock has of a model, a base or a vector from elsewhere, at its path."""
        for entry in self._entries(*name.split(".", 1)):
            files = [file for file in entry if file[0] != CHAT_TEMPLATE]
            places = [model if tag == GGUF else f"{model}/{tag}" for tag, _, _ in files]
            if files and all(self._place(p, file[1]) for p, file in zip(places, files, strict=True)):
                return {tag: digest for tag, _, digest in files}
        return {}

    def template(self, named: str) -> list[Path]:
        """The chat template that a recipe names, if a lock has it and it is not here."""
        entries = self._entries("base")
        return self._literal(named, [file for entry in entries for file in entry if file[0] == CHAT_TEMPLATE])

    def data(self, name: str, mark: str, pattern: str) -> list[Path]:
        """The files of a dataset or probe that a lock has under a path or pattern of which none is here.

        Args:
            name: Of the dataset or probe.
            mark: What stands before the type in the tag of such a file: `test:`.
            pattern: As the recipe writes it.
        """
        entries = [*self._entries("datasets", name)]
        known = [file for entry in entries for file in entry]
        if found := self._literal(pattern, known):
            return found
        matching = {path for _, path, _ in known if self._place(pattern, path, matches)}
        groups = [_of_side(entry, side) for entry in entries for side in (mark, *_SIDES)]
        # All that was locked together, and nothing else that is known: else the pattern was another one.
        group = next((g for g in groups if g and {path for _, path, _ in g} == matching), [])
        return self._taken((self._place(pattern, path, matches), digest) for _, path, digest in group)

    def task(self, name: str, folder: Path | None) -> Closure | None:
        """What a lock has of a task some of whose files are not here; None where that does not say what it is made of.

        Those that are here have to be what was locked: they say which files belong to the task.
        """
        from dem_build.lock.tasks import TASK_MARK, Closure  # noqa: PLC0415  few recipes have such a task

        table = (self._document or {}).get("tasks", {}).get(name, {})
        found = [(tag, self._task_place(tag, path), digest) for tag, path, digest in _files(table)]
        own = next((path for tag, path, _ in found if tag.startswith(TASK_MARK)), None)
        # A lock that came with a recipe may be anybody's: that a task is no code of its own is not taken on its word.
        local = table.get("local") is not False or not all(_builtin(tag) for tag, _, _ in found)
        # What lm-eval brings is where lm-eval is; the user's tasks are where the recipe says.
        known = folder is not None and own is not None and own.is_relative_to(os.path.normpath(folder))
        if own is None or not (known if local else self.alone):
            return None
        here = [(path, digest) for _, path, digest in found if not self._is_absent(path)]
        if len(here) == len(found) or any(self._hints.digest_of(p).digest != d for p, d in here):
            return None
        for _, path, digest in found:
            if self._is_absent(path):
                self.digests.setdefault(path, digest)
        dataset, version = (_text(table.get(key)) for key in ("dataset", "lm_eval"))
        closure = Closure(name, tuple((tag, path) for tag, path, _ in found), local, dataset)
        return replace(closure, lm_eval=version) if self.alone else closure

    def groups(self, name: str) -> dict[str, TaskGroup]:
        """What a lock has of a group or a tag of tasks, and of the groups in it; nothing where it has none.

        What a task of it is, is asked for each by its own name.
        """
        from dem_build.lock.task_groups import TaskGroup  # noqa: PLC0415  few recipes have such a group

        table = (self._document or {}).get("groups", {})
        try:
            found = TaskGroup.parse(table[name])
            return {n: TaskGroup.parse(table[n]) for n in (name, *found.groups)}
        except (KeyError, TypeError, AttributeError):
            return {}

    def take(self, path: Path, digest: Digest) -> None:
        """Note that a file is not here, and that this is its digest."""
        self.digests.setdefault(path, digest)

    def _task_place(self, tag: str, path: str) -> Path:
        """Where a file of a task is here: what it takes of lm-eval lies where that is installed."""
        from dem_build.lock.task_index import builtin_folder  # noqa: PLC0415  few recipes have such a task

        if (builtin := _builtin(tag)) is None:
            return _joined(self._folder, path)
        try:
            return _joined(builtin_folder(), builtin)
        except UsageError:
            if not self.alone:
                raise
            return _joined(
                self._folder, path
            )  # a plan alone asks for no lm-eval, and without it no task runs

    def _entries(self, section: str, name: str = "") -> Iterator[list[Entry]]:
        """Yield the local files of each entry of a part of the lock, first of the one that has the name."""
        table = (self._document or {}).get(section, {})
        entries = {"": table} if section == "base" else table
        for each in sorted(
            entries, key=lambda other: other != name
        ):  # stable: the others as they stand there
            yield _files(entries[each])

    def _literal(self, named: str, files: Iterable[Entry]) -> list[Path]:
        """The file that a recipe names, if it is one of the lock's."""
        places = ((self._place(named, path), digest) for _, path, digest in files)
        return self._taken(next(([found] for found in places if found[0] is not None), []))

    def _taken(self, files: Iterable[tuple[Path | None, Digest]]) -> list[Path]:
        """Note files whose digests the lock tells; none of them where something else lies at the path of one."""
        found = {path: digest for path, digest in files if path is not None}
        if not all(map(self._is_absent, found)):
            return []
        self.digests.update({path: digest for path, digest in found.items() if path not in self.digests})
        return sorted(found)

    def _is_absent(self, path: Path) -> bool:
        return self.alone or is_absent(path)

    def _place(self, named: str, locked: str, same: Same = operator.eq) -> Path | None:
        """Where a file of the lock would be here, if a recipe names it.

        Args:
            named: A path or pattern, as the recipe writes it.
            locked: The file's path, as the lock has it: relative to its folder.
            same: Whether the parts of a path are those that a recipe means.
        """
        whole, place = expanded(named), _joined(self._folder, locked)
        if same(Path(os.path.normpath(self._folder / whole)).parts, place.parts):
            return place
        # An absolute path is the same wherever the recipe lies. How far up the lock's leads is of where it was written.
        root = expanded("~") if named.startswith("~/") else Path(whole.anchor)
        meant = Path(os.path.normpath(whole))
        if not (whole.is_absolute() and locked.startswith("../") and meant.is_relative_to(root)):
            return None
        rest = tuple(part for part in PurePosixPath(locked).parts if part != "..")
        return root.joinpath(*rest) if same(meant.relative_to(root).parts, rest) else None


def is_absent(path: Path) -> bool:
    """Whether nothing lies at a path, as far as that can be told; a link that leads nowhere is nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _builtin(tag: str) -> str | None:
    """Where a file of a task is among those that lm-eval brings, by its tag in a lock; None for any other."""
    from dem_build.lock.tasks import TASK_MARK  # noqa: PLC0415  few recipes have such a task

    mark, _, place = tag.removeprefix(TASK_MARK).partition("builtin/")
    return None if mark or not place or ".." in place.split("/") or place.startswith("/") else place


def _joined(folder: Path, path: str) -> Path:
    return Path(os.path.normpath(folder / path))


def _files(entry: JSON) -> list[Entry]:
    """The local files of a lock's entry; none where a part of one is missing, as no set of files is told then."""
    found = [tuple(file.get(key) for key in ("tag", "path", "sha256")) for file in entry.get("files", ())]
    whole = all(isinstance(part, str) for file in found for part in file)
    return found if whole and all(_DIGEST.fullmatch(digest) for _, _, digest in found) else []


def _of_side(entry: Iterable[Entry], mark: str) -> list[Entry]:
    return [file for file in entry if file[0].rpartition(":")[0] == mark.removesuffix(":")]


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


@cache
def matches(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a path is one of those that `data.sources.matching` would yield for a pattern, both in parts."""
    if not pattern:
        return not path
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        below = bool(path) and not path[0].startswith(".") and matches(pattern, path[1:])
        return below or matches(rest or ("*",), path)
    hidden = bool(path) and path[0].startswith(".") and not first.startswith(".")
    return bool(path) and not hidden and fnmatch.fnmatchcase(path[0], first) and matches(rest, path[1:])
