"""Kind `sample`: what a model answers to a few prompts, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, COMPOSED, MODEL_PARTS, Action, Edge, Evaluation, Input, Kind
from dem_build.workload import Due, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Evaluate, Recipe


def _prompts(due: Due) -> int | None:
    wanted: JSON = due.action.params["prompts"]
    if isinstance(wanted, list):
        return len(wanted)
    there = next(iter(due.splits(("data/rows",), "prompts")), None)
    return None if there is None else min(wanted, there)


KIND = Kind(
    name="sample",
    module="dem_build.actions.sample.run",
    family="evaluate",
    version=1,
    # Texts, or how many held-out rows; an answer is always the likeliest one.
    params=("prompts", "max_new_tokens", "dtype"),
    outputs=("answers",),
    device=True,
    work=Workload(_prompts, lambda record: record.count("prompts"), ("max_new_tokens", "dtype")),
)


def evaluations(recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:  # noqa: ARG001  as of all evaluations
    """What base and composed model answer: an action a dataset, so that another dataset asks no model again."""
    evaluate = recipe.evaluate
    if evaluate is None or not evaluate.prompts:
        return []
    asked = {model: source for model, source in models.items() if model in (BASE, COMPOSED)}
    if not isinstance(evaluate.prompts, int):
        return [
            _sample(recipe, evaluate, model, asked[model]) for model in (BASE, COMPOSED) if model in asked
        ]
    datasets = recipe.tested
    # A model's one after another: it is loaded once.
    return [
        _sample(recipe, evaluate, model, asked[model], name)
        for model in (BASE, COMPOSED)
        if model in asked
        for name in datasets
    ]


def _sample(
    recipe: Recipe, evaluate: Evaluate, model: str, source: str, dataset: str | None = None
) -> Action:
    takes = tuple(Input(f"model/{part}", Edge(source, part)) for part in MODEL_PARTS)
    if dataset is not None:
        takes += (Input("data/rows", Edge(f"data:{dataset}", "test")),)
    params = {
        "prompts": evaluate.prompts if isinstance(evaluate.prompts, int) else list(evaluate.prompts),
        "max_new_tokens": evaluate.max_new_tokens,
        "dtype": recipe.compose.dtype,
    }
    of = [] if dataset is None else [dataset]
    about = Evaluation(model, ":".join([KIND.name, *of]))
    return Action(":".join([KIND.name, model, *of]), KIND, params, takes, evaluation=about)
