"""An lm-eval task's closure: the files that give it its meaning, found by parsing text.

lm-eval itself is never imported here (its import takes seconds, its index of tasks half a minute), and
nothing of a task is executed: YAML is read with `!function` kept as text, Python is parsed for its imports. A
file that a task's Python opens by itself cannot be seen; the step runs local tasks in a copy of their closure,
where such a file is missing, so it fails instead of going stale.

Tags of a closure's files: `local/PATH` relative to the task file's folder, `builtin/PATH` relative to lm-eval's
tasks, `absolute/PATH` for what a task names by an absolute path. The task's own file has `task:` before its tag.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import warnings
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.data.sources import matching
from dem_build.errors import UsageError
from dem_build.lock.hub_splits import HubData, split_files
from dem_build.lock.task_index import (
    Function,
    builtin_folder,
    find,
    parse_task,
    read_small,
)
from dem_build.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from dem_build.digest import JSON

TASK_MARK = "task:"
"""Stands before the tag of the task's own file."""

FILE_FORMATS = frozenset({"arrow", "csv", "json", "pandas", "parquet", "text", "xml"})
"""Values of `dataset_path` for which the data are the files of `dataset_kwargs`."""

MOST_FILES = 10_000
"""Of a task: more than any has, and few enough to be read in seconds."""


@dataclass(frozen=True)
class Closure:
    """What an evaluation task is made of.

    Attributes:
        files: Tag and path of its YAML, what that includes, its Python files and its local data.
        local: Whether it is the user's, not one that lm-eval brings. Running it then executes code that is not
            lm-eval's own: lm-eval renders a task's templates with Jinja outside of a sandbox.
        dataset: The hub dataset that it needs; None when its data are local files.
        scored: Those of its files that hold what a model is scored on; none where a lock alone tells of it.
        lm_eval: Version of lm-eval that gives it its meaning; None for the one that is installed.
    """

    task: str
    files: tuple[tuple[str, Path], ...]
    local: bool
    dataset: str | None
    scored: tuple[Path, ...] = ()
    lm_eval: str | None = None


@cache
def lm_eval_version() -> str:
    """The version of the installed lm-eval, without importing it."""
    return importlib.metadata.version("lm_eval")


def find_task(name: str, include_path: Path | None) -> Closure:
    """Find a task by the name that its YAML has: the user's first, in or below a folder, then lm-eval's own.

    Raises:
        UsageError: No such task, a group or a tag of tasks, or one whose files are missing or cannot be read.
    """
    require_folder(include_path)
    found = find(name, include_path)
    if not isinstance(found, Path):
        raise _not_a_task(name, found.group)
    return closure_of(found, name)


def require_folder(include_path: Path | None) -> None:
    """Refuse a folder of task files that is not there.

    Raises:
        UsageError: It is not.
    """
    if include_path is not None and not include_path.is_dir():
        hint = "include_path is the folder of your task files"
        raise UsageError(f"there is no folder {include_path}", hint=hint)


def _not_a_task(name: str, path: Path | None) -> UsageError:
    what = f"{name} is a {'group' if path else 'tag'} of tasks, and no task"
    return UsageError(what, where=str(path or ""), hint="name one of its tasks")


def closure_of(path: Path, task: str) -> Closure:
    """The closure of the task that the YAML file at `path` defines.

    Raises:
        UsageError: The file defines a group of tasks, or a file that it needs is missing or cannot be read.
    """
    path = within(Path.cwd(), str(path))
    local = not path.is_relative_to(builtin_folder())
    walk = _Walk(path.parent, local)
    try:
        config = walk.include(path)
        if "group" in config or not isinstance(config.get("task"), str):
            raise _not_a_task(task, path)
        dataset = walk.data(config, path)
    except OSError as error:  # a name that is too long, a folder that may not be read
        what = f"names {str(error.filename)[:200]}, which cannot be read: {error.strerror}"
        raise UsageError(what, where=str(path)) from error
    tags = [(_tag(file, path, local, absolute), file) for file, absolute in walk.found.items()]
    files = [(TASK_MARK + tag if file == path else tag, file) for tag, file in tags]
    scored = _scored_files(config, path, walk.found)
    return Closure(task, tuple(sorted(files)), local, dataset, scored)


class _Walk:
    """Collects the files that a task's YAML refers to; `found` tells which of them were named absolutely."""

    def __init__(self, folder: Path, local: bool) -> None:
        self.folder = folder
        self.local = local
        self.found: dict[Path, bool] = {}

    def include(self, path: Path, *, absolute: bool = False, above: tuple[Path, ...] = ()) -> dict[str, Any]:
        """Add a YAML file and what it includes; return its keys, its own before included ones."""
        # A file that is named twice counts as it was named first, which decides its tag.
        self.found.setdefault(path, absolute)
        config = parse_task(path)
        for function in _functions(config):
            self._function(function, path, absolute)
        includes = config.pop("include", [])
        merged: dict[str, Any] = {}
        for name in includes if isinstance(includes, list) else [includes]:
            included = within(path.parent, str(name))
            if included in (*above, path) or not included.is_file():
                missing = f"includes {name}, which does not exist"
                why = "includes itself" if included in (*above, path) else missing
                raise UsageError(why, where=str(path), hint="`include` is relative to the file that says it")
            far = absolute or expanded(str(name)).is_absolute()
            merged |= self.include(included, absolute=far, above=(*above, path))
        return merged | config

    def data(self, config: Mapping[str, Any], path: Path) -> str | None:
        """Add the local files that the documents come from; return the hub dataset where there is one."""
        dataset, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
        if not isinstance(dataset, str) or not isinstance(kwargs, dict):
            return None
        if dataset in FILE_FORMATS:
            return self._data_files(kwargs, path)
        # Only beside a user's task may a name like `org/name` be a folder: lm-eval's own are all of the hub.
        folder = within(path.parent, dataset)
        if self.local and (dataset.startswith((".", "/", "~")) or folder.is_dir()):
            self._add_folder(folder, dataset, path)
            return None
        return dataset or None

    def _data_files(self, kwargs: Mapping[str, Any], path: Path) -> str | None:
        """Add what `data_files` and `data_dir` name; the first is relative to the second, as in datasets."""
        folder_name = str(kwargs.get("data_dir") or "")
        if "data_files" not in kwargs:
            self._add_folder(within(path.parent, folder_name), folder_name, path)
            return None
        try:
            patterns = _patterns(kwargs["data_files"])
        except ValueError as error:
            raise UsageError(f"data_files: {error}", where=str(path)) from error
        hubs = [self._add_pattern(os.path.join(folder_name, p), path) for p in patterns]  # noqa: PTH118
        return next((hub for hub in hubs if hub), None)

    def _add_pattern(self, pattern: str, path: Path) -> str | None:
        if "://" in pattern:
            hub = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(@[^/]+)?/.*", pattern)
            # What lm-eval's own tasks name elsewhere is left to it: its version is in the key.
            if hub is None and self.local:
                hint = "download it, and name the file relative to the task file"
                what = f"data_files names {pattern}, which nothing pins"
                raise UsageError(what, where=str(path), hint=hint)
            return hub[1] if hub else None
        self._add(matching(str(within(path.parent, pattern)), path.parent), pattern, path)
        return None

    def _add_folder(self, folder: Path, name: str, path: Path) -> None:
        self._add((f for f in folder.rglob("*") if not f.name.startswith(".")), name or str(folder), path)

    def _add(self, files: Iterable[Path], name: str, path: Path) -> None:
        files = sorted(islice((file for file in files if file.is_file()), MOST_FILES + 1))
        if len(files) > MOST_FILES:
            what = f"names the data {name}: more than {MOST_FILES} files"
            raise UsageError(what, where=str(path), hint="name the files that it reads")
        if not files:
            hint = "data paths are relative to the folder of the task file"
            raise UsageError(f"names the data {name}, where there is no file", where=str(path), hint=hint)
        for file in files:
            self.found.setdefault(file, expanded(name).is_absolute())

    def _function(self, function: Function, path: Path, absolute: bool) -> None:
        """Add the Python file of a `!function`, sought as by lm-eval: beside the YAML, then as a module."""
        module = function.rpartition(".")[0]
        beside = within(path.parent, f"{module.replace('.', '/')}.py")
        if beside.is_file():
            self._python(beside, absolute)
        elif not self.local:
            self._imported(module, path.parent)
        elif not module or importlib.util.find_spec(module.partition(".")[0]) is None:
            hint = f"it belongs into {beside}"
            raise UsageError(f"there is no Python file for !function {function}", where=str(path), hint=hint)

    def _python(self, path: Path, absolute: bool = False) -> None:
        """Add a Python file and the files beside it that it imports."""
        if path in self.found:
            return
        self.found[path] = absolute
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an escape that is none: whoever runs it is told
                tree = ast.parse(read_small(path))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"cannot be read as Python: {error}", where=str(path)) from error
        for level, module in _imports(tree):
            if level:
                above = path.parents[min(level, len(path.parents)) - 1]
                self._modules(above, module, absolute)
            else:
                self._imported(module, path.parent, absolute)

    def _imported(self, module: str, folder: Path, absolute: bool = False) -> None:
        """Add the files of an absolute import: from lm-eval's tasks for its own, else from the task's."""
        if self.local:
            self._modules(folder, module, absolute)
            self._modules(self.folder, module, absolute)
        elif module.startswith("lm_eval.tasks."):
            self._modules(builtin_folder(), module.removeprefix("lm_eval.tasks."), absolute)

    def _modules(self, folder: Path, module: str, absolute: bool) -> None:
        # What runs on the way to a module counts too, a package's `__init__.py`; the last part may be a name in one.
        place = folder
        for part in module.split("."):
            place /= part
            for file in (place.with_name(f"{part}.py"), place / "__init__.py"):
                if file.is_file():
                    self._python(file, absolute)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield level (dots) and dotted name of all that a module imports, names in modules included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.level, f"{node.module}.{a.name}" if node.module else a.name) for a in node.names
            )


def _functions(value: Any) -> Iterator[Function]:
    seen: set[int] = set()  # an alias may lead back to what it stands in
    todo = [value]
    while todo:
        one = todo.pop(0)
        if isinstance(one, Function):
            yield one
        elif isinstance(one, dict | list) and id(one) not in seen:
            seen.add(id(one))
            todo += one.values() if isinstance(one, dict) else one


def _tag(file: Path, task_file: Path, local: bool, absolute: bool) -> str:
    if not local and file.is_relative_to(builtin_folder()):
        return f"builtin/{file.relative_to(builtin_folder()).as_posix()}"
    # A path that the task says is in the key by the task's text already; any other must not reach it.
    if absolute:
        return f"absolute{file.as_posix()}"
    return f"local/{Path(os.path.relpath(file, task_file.parent)).as_posix()}"


def map_data_files(data_files: JSON, change: Callable[[str], str]) -> JSON:
    """`data_files` as `datasets.load_dataset` takes it, each pattern in it changed.

    Raises:
        ValueError: Something other than patterns, lists of them, or splits of them.
    """
    match data_files:
        case str():
            return change(data_files)
        case list() | tuple():
            return [map_data_files(each, change) for each in data_files]
        case {"split": split, "path": pattern}:
            return {"split": split, "path": map_data_files(pattern, change)}
        case dict():
            return {split: map_data_files(each, change) for split, each in data_files.items()}
        case _:
            raise ValueError(f"{data_files!r} is no pattern of files")


def _patterns(data_files: JSON) -> list[str]:
    patterns: list[str] = []

    def keep(pattern: str) -> str:
        patterns.append(pattern)
        return pattern

    map_data_files(data_files, keep)
    return patterns


def within(folder: Path, name: str) -> Path:
    """The absolute path of `name` as seen from `folder`, symbolic links kept as they are."""
    return Path(os.path.normpath(folder / expanded(name)))


def _scored_files(config: Mapping[str, Any], path: Path, found: Collection[Path]) -> tuple[Path, ...]:
    """The files that a task is scored on: of its `test_split`, else of its `validation_split`.

    What its examples in the prompt come from is not among them. Where the split's files cannot be told, all data are.
    """
    split = str(config.get("test_split") or config.get("validation_split") or "").partition("[")[0]
    kwargs, dataset = config.get("dataset_kwargs"), config.get("dataset_path")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    in_files = isinstance(dataset, str) and dataset in FILE_FORMATS
    folder = within(path.parent, str((kwargs.get("data_dir") if in_files else dataset) or ""))
    if in_files and "data_files" in kwargs:
        named = kwargs["data_files"]
        if isinstance(named, dict) and split in named:  # else its patterns are of all splits
            named = named[split]
        wanted = {file for p in _patterns(named) for file in matching(str(within(folder, p)), folder)}
    else:
        wanted = _inside(folder, split, found)
    return tuple(file for file in found if file in wanted)


def _inside(folder: Path, split: str, found: Collection[Path]) -> set[Path]:
    """The files of a split of a folder, which `datasets` tells apart by their names."""
    inside = {f.relative_to(folder).as_posix(): f for f in found if f.is_relative_to(folder)}
    if not inside:
        return set()
    # Where it cannot be told which files those are, all of them count: a leak is refused rather than missed.
    try:
        return {inside[name] for name in split_files(HubData("folder", list(inside)), None, [split])[split]}
    except UsageError:
        return set(inside.values())
