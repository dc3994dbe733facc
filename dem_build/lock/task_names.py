"""Where the tasks of lm-eval and of the user are, by their names, without importing lm-eval."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.lock.task_yaml import parse_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["builtin_folder", "find_file", "group_refused"]

SHOWN = 8
"""Tasks of a group or a tag that are named, at most."""

_NAME_LINE = re.compile(
    rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#\[{][^"'#\r\n]*)""", re.MULTILINE
)
_TAG_LINES = re.compile(rb"^tag[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})  # as lm-eval's own index does


def find_file(name: str, include_path: Path | None) -> Path:
    """Return the file that defines a task: the user's first, then lm-eval's own.

    Raises:
        UsageError: There is none of that name, or it is a group's or a tag's.
    """
    own = _index(include_path) if include_path is not None else {}
    path = own.get(name)
    if path is None and include_path is not None:
        _refuse_collection(name, include_path)
    path = path or _builtin(name)
    if path is None:
        _refuse_collection(name, builtin_folder())
        raise _unknown(name, own)
    return path


@cache
def builtin_folder() -> Path:
    """Return the folder of lm-eval's tasks.

    Raises:
        UsageError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("lm-eval is not installed, so there are no tasks", hint="pip install lm-eval")
    return Path(os.path.normpath(spec.submodule_search_locations[0])) / "tasks"


def _builtin(name: str) -> Path | None:
    """Return the file of a task of lm-eval's. Folders of a like name first: reading all takes a second."""
    for folder in sorted(builtin_folder().iterdir()):
        word = folder.name.lower().replace("-", "_")
        if (
            folder.is_dir()
            and name.lower().replace("-", "_").startswith(word)
            and name in _builtin_index(folder)
        ):
            return _builtin_index(folder)[name]
    return _builtin_index(builtin_folder()).get(name)


@cache
def _builtin_index(folder: Path) -> dict[str, Path]:
    return _index(folder)


def _index(folder: Path) -> dict[str, Path]:
    """Return task name → YAML file for all files below a folder.

    Raises:
        UsageError: Two files define one task.
    """
    index: dict[str, Path] = {}
    for path, _, name in _named(folder, b"task"):
        if name in index:
            raise UsageError(
                f"{index[name]} and {path} both define the task {name}", hint="rename one of them"
            )
        index[name] = path
    return index


def _named(folder: Path, kind: bytes) -> Iterator[tuple[Path, bytes, str]]:
    for path in _yaml_files(folder):
        for found, name in _NAME_LINE.findall(path.read_bytes()):
            if found == kind:
                yield path, found, name.decode("utf-8", "replace").strip()


def _yaml_files(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        # Hidden folders are no one's tasks: a .venv below include_path holds all of lm-eval's.
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        yield from (Path(top, file) for file in sorted(files) if file.endswith(".yaml"))


def _unknown(name: str, own: Mapping[str, Path]) -> UsageError:
    near = difflib.get_close_matches(name, [*own, *_builtin_index(builtin_folder())], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "your own tasks lie in evaluate.include_path"
    return UsageError(f"there is no task {name}", hint=hint)


def _refuse_collection(name: str, folder: Path) -> None:
    """Refuse a name that stands for several tasks of a folder: a group, or a tag that tasks have.

    Raises:
        UsageError: It does.
    """
    if group := next((path for path, _, found in _named(folder, b"group") if found == name), None):
        raise group_refused(name, group)
    if tagged := _tagged(name, folder):
        what = f"{name} is a tag of tasks, which this version does not evaluate as one"
        raise UsageError(what, hint=f"name the tasks that have it, such as {', '.join(tagged[:SHOWN])}")


def _tagged(name: str, folder: Path) -> list[str]:
    """Return the tasks of a folder that have a tag."""
    tagged = []
    for path in _yaml_files(folder):
        text = path.read_bytes()
        tags = {
            t.strip(b"\"' ") for found in _TAG_LINES.findall(text) for t in re.split(rb"[\n\[\],]|- ", found)
        }
        if name.encode() in tags:
            tagged += [
                n.decode("utf-8", "replace").strip() for k, n in _NAME_LINE.findall(text) if k == b"task"
            ]
    return tagged


def group_refused(name: str, path: Path) -> UsageError:
    """Return the error of a name that is a group of tasks, which the file at `path` defines."""
    tasks = _members(path)
    hint = f"name its tasks: {', '.join(tasks)}" if tasks else f"name the tasks that {path} lists"
    return UsageError(
        f"{name} is a group of tasks, which this version does not evaluate", where=str(path), hint=hint
    )


def _members(path: Path) -> list[str]:
    """Return the names in a group's list; empty where they cannot be told from its file alone."""
    try:
        listed = parse_task(path).get("task")
    except UsageError:
        return []
    names = listed if isinstance(listed, list) else []
    return names if all(isinstance(n, str) for n in names) and len(names) <= SHOWN else []
