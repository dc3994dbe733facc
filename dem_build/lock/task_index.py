"""The tasks of lm-eval and of the user: where each is, by its name, and what its YAML says, without importing lm-eval.

A stranger may have written them: YAML is read within bounds, and nothing of it is executed.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.digest import of_json
from dem_build.errors import UsageError
from dem_build.host import host_folder
from dem_build.json_text import parse_json
from dem_build.store.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 1_000_000
INDEX_VERSION = 1  # of what a host keeps: raised when the same files give other names
MOST_LEVELS = 50
MOST_ALIASES = 30

_NAME_LINE = re.compile(
    rb"""^["']?(task|group)["']?[ \t]*:[ \t]*["']?([^\s"'#\[{][^"'#\r\n]*)""", re.MULTILINE
)
_TAG_LINES = re.compile(rb"^[\"']?tag[\"']?[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})  # as lm-eval's own index does
# What building YAML's own types raises of texts that are none of them: `!!timestamp x`, `2001-99-99`.
_YAML_FAULTS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class Function(str):
    """The text after `!function`: a module and a name in it."""

    __slots__ = ()


@dataclass(frozen=True)
class NamedTasks:
    """A name that stands for several tasks.

    Attributes:
        group: The file that defines it, of a group.
        tagged: The tasks that have it, of a tag.
    """

    group: Path | None = None
    tagged: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Index:
    """The names in a folder of task files.

    Attributes:
        tasks: Task → the file that defines it.
        groups: Group → the first file that defines it.
        tags: Tag → the tasks that have it, in the order of their files.
    """

    tasks: dict[str, Path]
    groups: dict[str, Path]
    tags: dict[str, list[str]]

    def find(self, name: str) -> Path | NamedTasks | None:
        """What a name is here."""
        if name in self.tasks:
            return self.tasks[name]
        return self.collection(name)

    def collection(self, name: str) -> NamedTasks | None:
        """The group, or else the tag, of a name."""
        if name in self.groups:
            return NamedTasks(self.groups[name])
        return NamedTasks(tagged=tuple(self.tags[name])) if name in self.tags else None


def find(name: str, include_path: Path | None) -> Path | NamedTasks:
    """What a name of `tasks` is: the user's first, then lm-eval's own.

    Returns:
        The file that defines a task, or the tasks that a group or a tag stands for.

    Raises:
        UsageError: There is none of that name, or two files of the user define one task.
    """
    own = _index(include_path) if include_path is not None else _Index({}, {}, {})
    # A group of the user's that is called as a task of lm-eval's is what the user means.
    if (found := own.find(name)) or (found := _builtin(name)):
        return found
    near = difflib.get_close_matches(name, [*own.tasks, *_builtin_index(builtin_folder()).tasks], n=3)
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


def _builtin(name: str) -> Path | NamedTasks | None:
    # Folders of a like name first: reading all takes a second. A tag may be that of tasks in several folders.
    for folder in _folders(builtin_folder()):
        word = folder.name.lower().replace("-", "_")
        if not name.lower().replace("-", "_").startswith(word):
            continue
        found = _builtin_index(folder).find(name)
        if isinstance(found, Path) or (found and found.group):
            return found
    # What is kept may be older than a task that somebody has added to their own copy of lm-eval.
    return _all_builtin().find(name) or _builtin_index(builtin_folder()).find(name)


@cache
def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _index(folder: Path) -> _Index:
    """The names in a folder and those below it.

    Raises:
        UsageError: Two files define one task.
    """
    index = _Index({}, {}, {})
    for path in _yaml_files(folder):
        text = path.read_bytes()
        tasks = _names(text, b"task")
        for name in tasks:
            if name in index.tasks:
                what = f"{index.tasks[name]} and {path} both define the task {name}"
                raise UsageError(what, hint="rename one of them")
            index.tasks[name] = path
        for name in _names(text, b"group"):
            index.groups.setdefault(name, path)
        tags = (t for found in _TAG_LINES.findall(text) for t in re.split(rb"[\n\[\],]|- ", found))
        for tag in {t.strip(b"\"' ").decode("utf-8", "replace") for t in tags} - {""} if tasks else ():
            index.tags.setdefault(tag, []).extend(tasks)
    return index


_builtin_index = cache(_index)


@cache
def _all_builtin() -> _Index:
    """The names of all that lm-eval brings; this host keeps them, as long as the same version is installed there."""
    folder, host = builtin_folder(), host_folder()
    if host is None:
        return _builtin_index(folder)
    where = of_json(
        [INDEX_VERSION, str(folder), importlib.metadata.version("lm_eval"), str(folder.stat().st_mtime_ns)]
    )
    kept = Path(host) / f"tasks-{where[:16]}.json"
    try:
        document = parse_json(kept.read_bytes())
        tasks, groups = ({n: folder / p for n, p in document[kind].items()} for kind in ("tasks", "groups"))
        return _Index(tasks, groups, {tag: [*map(str, named)] for tag, named in document["tags"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # there is none yet, or it is no such document: it is made again
    index = _builtin_index(folder)
    near = {
        n: {k: p.relative_to(folder).as_posix() for k, p in getattr(index, n).items()}
        for n in ("tasks", "groups")
    }
    with suppress(OSError):  # a host without room for it reads them again
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, json.dumps({**near, "tags": index.tags}).encode())
    return index


def _names(text: bytes, kind: bytes) -> list[str]:
    return [n.decode("utf-8", "replace").strip() for k, n in _NAME_LINE.findall(text) if k == kind]


def _yaml_files(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        # Hidden folders are no one's tasks: a .venv below include_path holds all of lm-eval's.
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        yield from (Path(top, file) for file in sorted(files) if file.endswith(".yaml"))


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
