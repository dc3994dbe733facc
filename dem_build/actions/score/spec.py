"""Kind `score`: what a vector of new rows would do to each skill of a model, before it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import Action, Edge, Input, Kind
from dem_build.actions.tune.spec import judging_inputs
from dem_build.workload import JUDGING, Workload, judging_rows

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

NEW = "new rows"
"""The group of the new rows: no dataset can be called so."""

KIND = Kind(
    name="score",
    module="dem_build.actions.score.run",
    family="analyze",
    version=1,
    params=("max_samples", "sample", "vectors"),
    outputs=("scores",),
    sampled=frozenset({*JUDGING, "data/train"}),
    device=True,
    work=Workload(judging_rows, lambda record: record.count("rows"), ("sample",)),
    slopes=lambda _: True,
    gradients=1,
    unfit="score on a machine with more memory",
)


def score_action(recipe: Recipe, origin: str, model: str, data: str, name: str, **params: JSON) -> Action:
    """The action NAME that scores new rows at a model.

    Args:
        recipe: Whose datasets and probes are the skills.
        origin: The action that makes what vectors start from.
        model: The action that makes the model.
        data: The action that prepares the new rows.
        name: Of the action.
        params: `max_samples`, most rows of a skill; `sample`, most rows that the gradient is of; `vectors`, those that
            the model is made of, by their digests, with that of the rows that each was trained on: nothing follows from
            them, but by them a later model is known to be this one and what was added.
    """
    takes = [
        Input(f"{of}/{part}", Edge(made, part))
        for of, made in (("model", model), ("origin", origin))
        for part in ("weights", "config")
    ]
    takes += [Input("data/train", Edge(data, "train"), group=NEW), *judging_inputs(recipe)]
    groups: dict[str, dict[str, JSON]] = {
        group: {} for group in dict.fromkeys(t.group for t in takes) if group is not None
    }
    return Action(name, KIND, params, tuple(takes), groups=groups)
