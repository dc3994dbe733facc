"""Kind `loss`: the held-out loss of one model on one split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import Action, Edge, Evaluation, Input, Kind
from dem_build.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe

KIND = Kind(
    name="loss",
    module="dem_build.actions.loss.run",
    family="evaluate",
    version=1,
    params=("dtype",),
    outputs=("metrics", "rows"),
    sampled=frozenset({"data/rows"}),
    device=True,
    work=Workload(
        lambda due: next(iter(due.splits(("data/rows",), "tokens")), None),
        lambda record: record.count("tokens", "seen"),
        ("dtype",),
        tokens=True,
    ),
)


def evaluations(recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:  # noqa: ARG001  as of all evaluations
    """The losses of every model on every dataset and probe that has rows for it."""
    datasets = [*recipe.tested, *recipe.probes] if recipe.evaluate and recipe.evaluate.loss else []
    return [_loss(recipe, model, source, name) for name in datasets for model, source in models.items()]


def loss_action(
    recipe: Recipe, name: str, source: str, rows: Edge, evaluation: Evaluation | None = None
) -> Action:
    """The loss, called NAME, of the model that an action makes on a split of a dataset."""
    takes = (
        Input("model/weights", Edge(source, "weights")),
        Input("model/config", Edge(source, "config")),
        Input("data/rows", rows),
    )
    return Action(name, KIND, {"dtype": recipe.compose.dtype}, takes, evaluation=evaluation)


def _loss(recipe: Recipe, model: str, source: str, dataset: str) -> Action:
    task = f"loss:{dataset}"
    rows = Edge(f"data:{dataset}", "test")
    return loss_action(recipe, f"loss:{model}:{dataset}", source, rows, Evaluation(model, task))
