"""A group or a tag of lm-eval tasks → the tasks that it stands for, and how a group's score is made of theirs.

As lm-eval's own task manager has it (its version 0.4.13), by reading files alone. What a group says of a task beside
`num_fewshot` would make it another task, which no file defines, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError
from dem_build.json_text import text_at
from dem_build.lock.task_index import Function, builtin_folder, find, parse_task
from dem_build.lock.tasks import require_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Task

MOST_LEVELS = 20
_OF_GROUPS = frozenset(
    {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag", "num_fewshot"}
)
_OF_TASKS = frozenset({"task", "task_alias", "num_fewshot"})


@dataclass(frozen=True)
class Score:
    """A metric of a group, which is the mean of its tasks'.

    Attributes:
        filters: Of which filters of the tasks' answers; None for those that the tasks have.
        weighted: Whether a task counts as it has documents; else all alike.
    """

    metric: str
    filters: tuple[str, ...] | None = None
    weighted: bool = True

    def document(self) -> dict[str, JSON]:
        """The score as it stands in the lock."""
        filters = {} if self.filters is None else {"filters": list(self.filters)}
        return {"metric": self.metric, **filters, "weight_by_size": self.weighted}

    @classmethod
    def parse(cls, document: JSON) -> Score:
        """The score that stands in a lock.

        Raises:
            KeyError, TypeError: It is not whole.
        """
        filters = document.get("filters")
        found = None if filters is None else tuple(str(f) for f in filters)
        return cls(text_at(document, "metric"), found, document["weight_by_size"] is True)


@dataclass(frozen=True)
class TaskGroup:
    """A group or a tag of tasks.

    Attributes:
        tasks: Its tasks, those of groups in it too → examples in the prompt, where the group says how many.
        scores: Its metrics; a tag has none.
        groups: The groups in it, which have scores of their own.
        local: Whether the user defines it.
    """

    tasks: Mapping[str, int | None]
    scores: tuple[Score, ...] = ()
    groups: tuple[str, ...] = ()
    local: bool = False

    def document(self) -> dict[str, JSON]:
        """The group as it stands in the lock."""
        return {
            "local": self.local,
            "tasks": dict(self.tasks),
            "scores": [score.document() for score in self.scores],
            "groups": list(self.groups),
        }

    @classmethod
    def parse(cls, document: JSON) -> TaskGroup:
        """The group that stands in a lock.

        Raises:
            KeyError, TypeError, AttributeError: It is not whole.
        """
        tasks = {str(name): shots for name, shots in document["tasks"].items()}
        if not all(shots is None or (isinstance(shots, int) and shots >= 0) for shots in tasks.values()):
            raise TypeError("a number of examples is none")
        scores = tuple(Score.parse(each) for each in document["scores"])
        return cls(tasks, scores, tuple(str(g) for g in document["groups"]), document["local"] is not False)


def find_groups(name: str, include_path: Path | None) -> dict[str, TaskGroup]:
    """The group or tag of a name, and the groups in it; nothing where it is a task.

    Raises:
        UsageError: There is nothing of that name, or a group's file cannot be read, or asks for what dem cannot do.
    """
    require_folder(include_path)
    found = find(name, include_path)
    if isinstance(found, Path):
        return {}
    reader = _Reader(include_path)
    if found.group is None:
        return {name: TaskGroup(dict.fromkeys(found.tagged), local=reader.is_local(found.tagged[0]))}
    reader.group(name, found.group, None, 0)
    return {name: reader.groups[name]} | reader.groups


def asked(tasks: Iterable[Task], groups: Mapping[str, TaskGroup]) -> list[Task]:
    """The tasks that a recipe asks for, those of groups and tags one by one; each once.

    Raises:
        UsageError: One is asked for twice, and not alike.
    """
    found: dict[str, tuple[Task, str]] = {}
    for task in tasks:
        group = groups.get(task.name)
        for name, shots in {task.name: None}.items() if group is None else group.tasks.items():
            one = task.model_copy(
                update={"name": name, "num_fewshot": shots if task.num_fewshot is None else task.num_fewshot}
            )
            first, of = found.setdefault(name, (one, task.name))
            if first != one:
                hint = "give both the same num_fewshot, limit and apply_chat_template, or leave one out"
                raise UsageError(
                    f"the task {name} is asked for by {of} and by {task.name}, not alike", hint=hint
                )
    return [task for task, _ in found.values()]


class _Reader:
    """Reads a group and those in it."""

    def __init__(self, include_path: Path | None) -> None:
        self._include_path = include_path
        self.groups: dict[str, TaskGroup] = {}

    def is_local(self, task: str) -> bool:
        """Whether a task is the user's."""
        found = find(task, self._include_path)
        return isinstance(found, Path) and not found.is_relative_to(builtin_folder())

    def group(self, name: str, path: Path, shots: int | None, level: int) -> TaskGroup:
        """A group that a file defines; `shots` is what a group around it says of its tasks."""
        return self._group(name, parse_task(path), path, shots, level)

    def _group(
        self, name: str, config: Mapping[str, Any], path: Path, shots: int | None, level: int
    ) -> TaskGroup:
        if level > MOST_LEVELS:
            raise UsageError(f"the group {name} is nested too deeply", where=str(path))
        _only(config, _OF_GROUPS, f"the group {name}", path)
        own = _shots(config, path) if shots is None else shots
        tasks: dict[str, int | None] = {}
        within: list[str] = []
        listed = config.get("task")
        for item in listed if isinstance(listed, list) else [listed]:
            found, groups = self._item(name, item, path, own, level)
            for task, own_shots in found.items():
                tasks.setdefault(task, own_shots)  # a task that is named twice counts as it was named first
            within += groups
        local = not path.is_relative_to(builtin_folder())
        made = TaskGroup(tasks, _scores(config, path), tuple(dict.fromkeys(within)), local)
        self.groups[name] = made
        return made

    def _item(
        self, group: str, item: Any, path: Path, shots: int | None, level: int
    ) -> tuple[dict[str, int | None], list[str]]:
        """The tasks of one entry of a group's `task`, and the groups in it."""
        if isinstance(item, dict) and "group" in item:
            name = str(item["group"])
            if "task" in item:
                name = f"{group}::{name}"  # as lm-eval calls a group that is defined within another
                made = self._group(name, item, path, shots, level + 1)
                return dict(made.tasks), [name, *made.groups]
            _only(
                item, frozenset({"group", "group_alias", "num_fewshot"}), f"the group {name} in {group}", path
            )
            return self._named(name, path, _own(item, path, shots), level)
        if isinstance(item, dict) and isinstance(item.get("task"), str):
            _only(item, _OF_TASKS, f"the task {item['task']} in the group {group}", path)
            return self._named(item["task"], path, _own(item, path, shots), level)
        if not isinstance(item, str):
            raise UsageError(
                f"the group {group} names no tasks", where=str(path), hint="task: [a_task, another]"
            )
        return self._named(item, path, shots, level)

    def _named(
        self, name: str, path: Path, shots: int | None, level: int
    ) -> tuple[dict[str, int | None], list[str]]:
        try:
            found = find(name, self._include_path)
        except UsageError as error:
            raise UsageError(f"names {name}: {error.what}", where=str(path), hint=error.hint) from error
        if isinstance(found, Path):
            return {name: shots}, []
        if found.group is None:
            return dict.fromkeys(found.tagged, shots), []
        made = self.group(name, found.group, shots, level + 1)
        return dict(made.tasks), [name, *made.groups]


def _own(item: Mapping[str, Any], path: Path, shots: int | None) -> int | None:
    found = _shots(item, path)
    return shots if found is None else found


def _shots(config: Mapping[str, Any], path: Path) -> int | None:
    found = config.get("num_fewshot")
    if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 0):
        raise UsageError(f"num_fewshot is {found!r}, and no number of examples", where=str(path))
    return found


def _only(config: Mapping[str, Any], known: frozenset[str], what: str, path: Path) -> None:
    if unknown := sorted(map(str, config.keys() - known)):
        hint = "a task file of your own can `include` it, and say that beside"
        raise UsageError(f"{what} sets `{unknown[0]}`, which dem does not follow", where=str(path), hint=hint)


def _scores(config: Mapping[str, Any], path: Path) -> tuple[Score, ...]:
    listed = config.get("aggregate_metric_list") or []
    found = []
    for each in listed if isinstance(listed, list) else [listed]:
        if not isinstance(each, dict) or not isinstance(each.get("metric"), str):
            raise UsageError("`aggregate_metric_list` cannot be read", where=str(path), hint="- metric: acc")
        aggregation = each.get("aggregation", "mean")
        if isinstance(aggregation, Function) or aggregation != "mean":
            what = f"`aggregate_metric_list` asks for {aggregation}, and a group's score is a mean"
            raise UsageError(what, where=str(path), hint="leave `aggregation` out")
        filters = each.get("filter_list")
        named = (
            None if filters is None else tuple(map(str, filters if isinstance(filters, list) else [filters]))
        )
        found.append(Score(each["metric"], named, each.get("weight_by_size", True) is not False))
    return tuple(found)
