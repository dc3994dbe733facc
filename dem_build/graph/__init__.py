"""Recipe and lock → actions and the outputs they take. Pure: it reads no file and knows no record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.graph.analyses import analyses
from dem_build.graph.choosing import chosen_by
from dem_build.graph.data import base_action, data_action, probe_action
from dem_build.graph.evaluations import evaluations
from dem_build.graph.models import composed_model, tuned_model
from dem_build.graph.nodes import (
    ANALYSIS,
    BASE,
    COMPOSED,
    LADDER,
    MODEL,
    MODEL_PARTS,
    RESPONSE,
    SAMPLE,
    TSNE,
    TUNE,
    Action,
    Edge,
    Evaluation,
    Graph,
    Taken,
)
from dem_build.graph.tuning import tune_action
from dem_build.graph.vectors import extracted_vector, trained_vector

if TYPE_CHECKING:
    from dem_build.lock.lock import Lock
    from dem_build.recipe import Recipe

__all__ = [
    "ANALYSIS",
    "BASE",
    "COMPOSED",
    "LADDER",
    "MODEL",
    "MODEL_PARTS",
    "RESPONSE",
    "SAMPLE",
    "TSNE",
    "TUNE",
    "Action",
    "Edge",
    "Evaluation",
    "Graph",
    "Taken",
    "build_graph",
    "chosen_by",
]


def build_graph(recipe: Recipe, lock: Lock) -> Graph:
    """Return the graph that a recipe and its lock describe."""
    actions = [base_action(recipe, lock)]
    actions += [data_action(recipe, name, lock) for name in recipe.datasets]
    actions += [probe_action(recipe, name, lock) for name in recipe.probes]
    actions += [trained_vector(recipe, name) for name in recipe.datasets]
    actions += [extracted_vector(recipe, name, lock) for name in recipe.vectors]
    said = {n: v.omega for table in (recipe.datasets, recipe.vectors) for n, v in table.items()}
    omega = {name: float(value) for name, value in said.items() if value != "tune"}
    if len(omega) < len(said):
        actions += [tune_action(recipe, omega), tuned_model(recipe, MODEL, said, TUNE)]
    else:
        actions.append(composed_model(recipe, MODEL, omega))
    actions += analyses(recipe, said, omega)
    models = {COMPOSED: MODEL, BASE: BASE}
    if recipe.evaluate and "vectors" in recipe.evaluate.models:
        singles = [composed_model(recipe, f"model:{name}", {name: 1.0}) for name in said]
        actions += singles
        models |= {a.name.removeprefix("model:"): a.name for a in singles}
    if recipe.baselines:
        from dem_build.graph.baselines import baseline_actions  # noqa: PLC0415  few recipes have one
    for name in recipe.baselines:
        actions += baseline_actions(recipe, name)
        models[name] = actions[-1].name
    actions += evaluations(recipe, lock, models)
    methods = {name: baseline.method for name, baseline in recipe.baselines.items()}
    return Graph({a.name: a for a in actions}, models, omega, methods)
