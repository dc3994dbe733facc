"""Evaluations: held-out losses, tasks and answers to prompts, of every model that is asked about."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dem_build.graph.nodes import BASE, COMPOSED, MODEL_PARTS, SAMPLE, Action, Edge, Evaluation, Taken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.lock.lock import Lock, LockedTask
    from dem_build.recipe import Evaluate, Recipe, Task

__all__ = ["evaluations"]


def evaluations(recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:
    """Return all evaluations, given each model of the results and the action that makes it."""
    evaluate = recipe.evaluate
    if evaluate is None:
        return []
    named = (COMPOSED, BASE, *recipe.baselines)  # single vectors are there only where they are asked for
    wanted = [m for m in models if m in evaluate.models or m not in named]
    # A test share of 0 says that nothing is held out.
    tested = [*(n for n, d in recipe.datasets.items() if d.test != 0), *recipe.probes]
    datasets = tested if evaluate.loss else []
    losses = [_loss(recipe, model, models[model], name) for name in datasets for model in wanted]
    tasks = [
        _task(recipe, lock.tasks[task.name], model, models[model], task)
        for task in evaluate.tasks
        for model in wanted
    ]
    found = losses + tasks + _samples(recipe, evaluate, models)
    return [replace(action, salt=evaluate.salt) for action in found]


def _loss(recipe: Recipe, model: str, source: str, dataset: str) -> Action:
    takes = (
        Taken("model/weights", Edge(source, "weights")),
        Taken("model/config", Edge(source, "config")),
        Taken("data/rows", Edge(f"data:{dataset}", "test")),
    )
    params = {"dtype": recipe.compose.dtype}
    evaluation = Evaluation(model, f"loss:{dataset}")
    return Action(f"loss:{model}:{dataset}", "loss", params, takes, evaluation=evaluation)


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
    takes = tuple(Taken(f"model/{part}", Edge(source, part)) for part in MODEL_PARTS)
    return Action(
        f"eval:{model}:{task.name}",
        "task",
        params,
        takes,
        locked.files,
        evaluation=Evaluation(model, task.name),
        runs_code=locked.local,
    )


def _samples(recipe: Recipe, evaluate: Evaluate, models: Mapping[str, str]) -> list[Action]:
    """Return what base and composed model answer: an action a dataset, so that another dataset asks no model again."""
    wanted = [m for m in (BASE, COMPOSED) if m in evaluate.models]
    if not evaluate.prompts:
        return []
    if not isinstance(evaluate.prompts, int):
        return [_sample(recipe, evaluate, model, models[model]) for model in wanted]
    datasets = [name for name, dataset in recipe.datasets.items() if dataset.test != 0]
    # A model's one after another: it is loaded once.
    return [_sample(recipe, evaluate, model, models[model], name) for model in wanted for name in datasets]


def _sample(
    recipe: Recipe, evaluate: Evaluate, model: str, source: str, dataset: str | None = None
) -> Action:
    takes = tuple(Taken(f"model/{part}", Edge(source, part)) for part in MODEL_PARTS)
    if dataset is not None:
        takes += (Taken("data/rows", Edge(f"data:{dataset}", "test")),)
    params = {
        "prompts": evaluate.prompts if isinstance(evaluate.prompts, int) else list(evaluate.prompts),
        "max_new_tokens": evaluate.max_new_tokens,
        "dtype": recipe.compose.dtype,
    }
    about = [SAMPLE, *([] if dataset is None else [dataset])]
    evaluation = Evaluation(model, ":".join(about))
    return Action(":".join([about[0], model, *about[1:]]), SAMPLE, params, takes, evaluation=evaluation)
