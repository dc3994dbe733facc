"""Kind `task`: one model on one lm-eval task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import MODEL_PARTS, Action, Edge, Evaluation, Input, Kind
from dem_build.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.lock.lock import Lock, LockedTask
    from dem_build.recipe import Recipe, Task

KIND = Kind(
    name="task",
    module="dem_build.actions.task.run",
    family="evaluate",
    version=4,  # 4: no example is what is asked; 3: samples have lm-eval's hashes; 2: special tokens of training
    params=(
        "task",
        "num_fewshot",
        "limit",
        "apply_chat_template",
        "dtype",
        "lm_eval",
        "dataset_revision",
    ),
    outputs=("metrics", "samples"),
    optional=frozenset({"num_fewshot", "limit", "dataset_revision"}),
    device=True,
    # A task reads the same documents every time, whatever the model.
    work=Workload(
        lambda _: 1,
        lambda _: 1,
        ("task", "num_fewshot", "limit", "apply_chat_template", "dtype"),
    ),
)


def evaluations(recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:
    """Every task with every model, those of groups and tags one by one."""
    tasks: Iterable[Task] = recipe.evaluate.tasks if recipe.evaluate else ()
    if lock.groups:
        from dem_build.lock.task_groups import asked  # noqa: PLC0415  few recipes have a group

        tasks = asked(tasks, lock.groups)
    return [
        _task(recipe, lock.tasks[task.name], model, source, task)
        for task in tasks
        for model, source in models.items()
    ]


def _task(recipe: Recipe, locked: LockedTask, model: str, source: str, task: Task) -> Action:
    params = {
        "task": task.name,
        "num_fewshot": task.num_fewshot,
        "limit": task.limit,
        "apply_chat_template": task.apply_chat_template,
        "dtype": recipe.compose.dtype,
        "lm_eval": locked.lm_eval,
        "dataset_revision": locked.dataset_revision,
    }
    takes = tuple(Input(f"model/{part}", Edge(source, part)) for part in MODEL_PARTS)
    return Action(
        f"eval:{model}:{task.name}",
        KIND,
        params,
        takes,
        locked.files,
        evaluation=Evaluation(model, task.name),
        runs_code=locked.local,
    )
