"""Kind `choose`: of some models the one that is best on validation rows becomes the composed one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, MODEL, MODEL_PARTS, TRUNK, TUNE, Action, Edge, Input, Kind
from dem_build.actions.compose.methods import METHODS
from dem_build.actions.compose.methods.auto import AUTO
from dem_build.actions.compose.spec import tuned_model
from dem_build.actions.loss.spec import loss_action
from dem_build.actions.match.spec import matched_model, saliencies
from dem_build.actions.tune.spec import rows_choose, tune_action
from dem_build.workload import JUDGING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

CANDIDATES = tuple(AUTO.candidates)
"""In the order in which one of two that are equal is kept: the plainer one first."""
SUM, LAYERS, MATCH = CANDIDATES
COMPOSES = AUTO.name


KIND = Kind(
    name="choose",
    module="dem_build.actions.choose.run",
    family="compose",
    version=1,
    params=("objective",),
    outputs=MODEL_PARTS,
    sampled=frozenset(JUDGING),
    writes_model=True,
    chooses=rows_choose,
)


def candidates_of(recipe: Recipe) -> tuple[str, ...]:
    """The models of a recipe of which the composed one is the best; none where it says how to compose."""
    return tuple(METHODS[recipe.compose.method].candidates)


def composing(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
    """Each model, its losses on what judges, and the choice of one of them, which is NAME."""
    layered = f"{TUNE}:{LAYERS}"
    actions = [
        tune_action(recipe, {}, granularity="model"),
        tune_action(recipe, {}, layered, granularity="layer"),
        tuned_model(recipe, f"model:{SUM}", omega, TUNE),
        tuned_model(recipe, f"model:{LAYERS}", omega, layered),
        *saliencies(recipe, dict.fromkeys(omega, 1.0)),
        matched_model(recipe, f"model:{MATCH}", dict.fromkeys(omega, 1.0)),
    ]
    return [*actions, *_losses(recipe), _choice(recipe, name)]


def _judging(recipe: Recipe) -> dict[str, tuple[str, Edge]]:
    """Dataset or probe → the tag and the split of its rows that judge."""
    found = {n: ("data/validation", Edge(f"data:{n}", "validation")) for n in recipe.validated}
    limited = [n for n, probe in recipe.probes.items() if probe.max_loss_increase is not None]
    return found | {n: ("data/rows", Edge(f"data:{n}", "test")) for n in limited}


def _losses(recipe: Recipe) -> list[Action]:
    # What gain is measured from is what the searches began with: the base, or the trunk.
    origin = BASE if recipe.trunk is None else f"{MODEL}:{TRUNK}"
    sources = {BASE: origin} | {name: f"model:{name}" for name in CANDIDATES}
    return [
        loss_action(recipe, f"choice:{model}:{judge}", source, rows)
        for judge, (_, rows) in _judging(recipe).items()
        for model, source in sources.items()
    ]


def _choice(recipe: Recipe, name: str) -> Action:
    from dem_build.recipe import Tune  # noqa: PLC0415  a worker reads this table of kinds, and no recipe

    tune = recipe.tune or Tune()
    takes = [
        Input(f"{model}/{part}", Edge(f"model:{model}", part)) for model in CANDIDATES for part in MODEL_PARTS
    ]
    takes.append(Input("trace", Edge(TUNE, "trace")))
    groups: dict[str, Mapping[str, JSON]] = {}
    for judge, (tag, rows) in _judging(recipe).items():
        takes.append(Input(tag, rows, group=judge))
        takes += [
            Input(f"loss/{m}", Edge(f"choice:{m}:{judge}", "rows"), group=judge) for m in (BASE, *CANDIDATES)
        ]
        if judge in recipe.probes:
            groups[judge] = {"limit": recipe.probes[judge].max_loss_increase}
        else:
            groups[judge] = {"importance": tune.importance.get(judge, 1.0)}
            takes.append(Input("delta", Edge(f"vector:{judge}", "delta"), group=judge))
    # What some vector was trained on judges nothing, whose ever it is.
    learned = recipe.learned_from
    takes += [Input("data/train", Edge(f"data:{n}", "train"), group=f"{n}/train") for n in learned]
    groups |= {f"{n}/train": {} for n in learned}
    return Action(
        name, KIND, {"objective": tune.objective}, tuple(takes), salt=recipe.compose.salt, groups=groups
    )
