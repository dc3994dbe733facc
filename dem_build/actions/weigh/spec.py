"""Kind `weigh`: layers are matched with a few importances of the datasets, and the best on validation rows are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL_PARTS, Action, Edge, Input, Kind
from dem_build.actions.compose.methods.match import MATCH
from dem_build.actions.match.spec import KEYS, matched_model, saliencies, vector_inputs
from dem_build.actions.tune.spec import judging_inputs, rows_choose
from dem_build.workload import JUDGING, SAMPLE, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

    Params = dict[str, JSON]

COMPOSES = MATCH.name
REFERENCE = "reference"
"""The vector of a dataset that judges and takes no part: what it gains alone is the measure of its gain."""


KIND = Kind(
    name="weigh",
    module="dem_build.actions.weigh.run",
    family="compose",
    version=2,
    params=("dtype", *KEYS, "objective", "max_samples"),
    outputs=MODEL_PARTS,
    sampled=frozenset(JUDGING),
    device=True,
    resumes=True,
    writes_model=True,
    chooses=lambda action, taken: rows_choose(action, taken, "weight"),
    work=Workload(
        lambda due: due.sampled_tokens(SAMPLE, due.action.params["rows"]),
        lambda record: record.count("sampled_tokens"),
        varies=True,
    ),
)


def composing(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
    """The matched model, with the importances that are given; those that are None are searched."""
    given = {vector: value for vector, value in omega.items() if value is not None}
    if len(given) == len(omega):
        model = matched_model(recipe, name, given)
    else:
        model = _weighed(recipe, name, {vector: value for vector, value in omega.items() if value != 0})
    return [*saliencies(recipe, omega), model]


def _weighed(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> Action:
    from dem_build.recipe import Tune  # noqa: PLC0415  a worker reads this table of kinds, and no recipe

    tune, compose = recipe.tune or Tune(), recipe.compose
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [*vector_inputs(recipe, omega), *judging_inputs(recipe)]
    groups: dict[str, Params] = {vector: {"importance": value} for vector, value in omega.items()}
    for dataset in recipe.datasets:  # one whose vector takes no part judges all the same
        groups.setdefault(dataset, {})["weight"] = tune.importance.get(dataset, 1.0)
        if dataset not in omega and dataset in recipe.validated:
            takes.append(Input(REFERENCE, Edge(f"vector:{dataset}", "delta"), group=dataset))
    for learned in recipe.learned_from:
        groups.setdefault(learned, {})
    groups |= {probe: {"limit": p.max_loss_increase} for probe, p in recipe.probes.items()}
    params: Params = {"dtype": compose.dtype, "objective": tune.objective, "max_samples": tune.max_samples}
    params |= {key: getattr(compose, key) for key in KEYS}
    return Action(name, KIND, params, tuple(takes), salt=compose.salt, groups=groups)
