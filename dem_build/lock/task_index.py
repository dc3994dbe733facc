"""The tasks of lm-eval and of the user: where each is, by its name, and what its YAML says, without importing lm-eval.

A stranger may have written them: YAML is read within bounds, and nothing of it is executed.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Function", "builtin_folder", "find_file", "group_refused", "parse_task", "read_small"]

SHOWN = 8
"""Tasks of a group or a tag that are named, at most."""
MOST_BYTES = 1_000_000
MOST_LEVELS = 50
MOST_ALIASES = 30

_NAME_LINE = re.compile(
    rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#\[{][^"'#\r\n]*)""", re.MULTILINE
)
_TAG_LINES = re.compile(rb"^tag[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})  # as lm-eval's own index does
# What building YAML's own types raises of texts that are none of them: `!!timestamp x`, `2001-99-99`.
_YAML_FAULTS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class Function(str):
    """The text after `!function`: a module and a name in it."""

    __slots__ = ()


def find_file(name: str, include_path: Path | None) -> Path:
    """The file that defines a task: the user's first, then lm-eval's own.

    Raises:
        UsageError: There is none of that name, or it is a group's or a tag's.
    """
    own = _index(include_path) if include_path is not None else {}
    if name in own:
        return own[name]
    # A group of the user's that is called as a task of lm-eval's is what the user means.
    if include_path is not None:
        _refuse_collection(name, include_path)
    if path := _builtin(name):
        return path
    _refuse_collection(name, builtin_folder())
    near = difflib.get_close_matches(name, [*own, *_builtin_index(builtin_folder())], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "your own tasks lie in evaluate.include_path"
    raise UsageError(f"there is no task {name}", hint=hint)


@cache
def builtin_folder() -> Path:
    """The folder of lm-eval's tasks.

    Raises:
        UsageError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("lm-eval is not installed, so there are no tasks", hint="pip install lm-eval")
    return Path(os.path.normpath(spec.submodule_search_locations[0])) / "tasks"


def _builtin(name: str) -> Path | None:
    # Folders of a like name first: reading all takes a second.
    for folder in sorted(builtin_folder().iterdir()):
        word = folder.name.lower().replace("-", "_")
        if not folder.is_dir() or not name.lower().replace("-", "_").startswith(word):
            continue
        if path := _builtin_index(folder).get(name):
            return path
    return _builtin_index(builtin_folder()).get(name)


def _index(folder: Path) -> dict[str, Path]:
    """Task name → YAML file for all files below a folder.

    Raises:
        UsageError: Two files define one task.
    """
    index: dict[str, Path] = {}
    for path, name in _named(folder, b"task"):
        if name in index:
            what = f"{index[name]} and {path} both define the task {name}"
            raise UsageError(what, hint="rename one of them")
        index[name] = path
    return index


_builtin_index = cache(_index)


def _named(folder: Path, kind: bytes) -> Iterator[tuple[Path, str]]:
    for path in _yaml_files(folder):
        yield from ((path, name) for name in _names(path.read_bytes(), kind))


def _names(text: bytes, kind: bytes) -> list[str]:
    return [n.decode("utf-8", "replace").strip() for k, n in _NAME_LINE.findall(text) if k == kind]


def _yaml_files(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        # Hidden folders are no one's tasks: a .venv below include_path holds all of lm-eval's.
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        yield from (Path(top, file) for file in sorted(files) if file.endswith(".yaml"))


def _refuse_collection(name: str, folder: Path) -> None:
    """Refuse a name that stands for several tasks of a folder: a group, or a tag that tasks have.

    Raises:
        UsageError: It does.
    """
    if group := next((path for path, found in _named(folder, b"group") if found == name), None):
        raise group_refused(name, group)
    tagged = []
    for path in _yaml_files(folder):
        text = path.read_bytes()
        tags = (t for found in _TAG_LINES.findall(text) for t in re.split(rb"[\n\[\],]|- ", found))
        if name.encode() in {t.strip(b"\"' ") for t in tags}:
            tagged += _names(text, b"task")
    if tagged:
        what = f"{name} is a tag of tasks, which this version does not evaluate as one"
        raise UsageError(what, hint=f"name the tasks that have it, such as {', '.join(tagged[:SHOWN])}")


def group_refused(name: str, path: Path) -> UsageError:
    """The error of a name that is a group of tasks, which the file at `path` defines."""
    try:
        listed = parse_task(path).get("task")
    except UsageError:
        listed = None
    # A group that is made of groups, or of very many tasks, is left to its file.
    few = isinstance(listed, list) and len(listed) <= SHOWN and all(isinstance(n, str) for n in listed)
    tasks = listed if few and listed else []
    hint = f"name its tasks: {', '.join(tasks)}" if tasks else f"name the tasks that {path} lists"
    what = f"{name} is a group of tasks, which this version does not evaluate"
    return UsageError(what, where=str(path), hint=hint)


def parse_task(path: Path) -> dict[str, Any]:
    """The keys of a task's or a group's file; `!function` stays text.

    Raises:
        UsageError: It cannot be read, or is no task.
    """
    import yaml  # noqa: PLC0415 -- the planning path pays for it only where there are tasks

    try:
        text = read_small(path)
        _refuse_bombs(text)
        # A safe loader, with a constructor that keeps the text of !function.
        config = yaml.load(text, Loader=_loader())  # noqa: S506
    except (OSError, yaml.YAMLError, *_YAML_FAULTS) as error:
        raise UsageError(f"cannot be read as a task: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise UsageError("is no table of keys, so no task", where=str(path))
    return config


def read_small(path: Path) -> bytes:
    """What a file of code or settings holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is far larger than any such file.
    """
    # Read with a limit, not measured first: a device or a file that grows has no size.
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return text


def _refuse_bombs(text: bytes) -> None:
    """Refuse YAML that is small as text and not as a document, before anything is made of it.

    To compose a document takes stack for each level, in C, where too many end the process; and a few aliases of
    aliases make billions of entries.

    Raises:
        ValueError: More levels or aliases than any task has.
    """
    import yaml  # noqa: PLC0415 -- as above

    depth = aliases = 0
    for event in yaml.parse(text, Loader=_loader()):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS or aliases > MOST_ALIASES:
            raise ValueError("it is nested too deeply" if depth > MOST_LEVELS else "it has too many aliases")


@cache
def _loader() -> Any:
    import yaml  # noqa: PLC0415 -- as above

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Reads a task's YAML without executing anything."""

    Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))
    return Loader
