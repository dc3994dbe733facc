"""Rules of ω, `[tune]` and `[analysis]`: what may be searched, and what judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import METHODS
from dem_build.recipe.checks.tables import (
    WRONG,
    Rules,
    baselines,
    datasets,
    names,
    omegas,
    vectors,
    with_rows,
)
from dem_build.recipe.messages import Mistake, any_of, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.actions.compose.methods import Method
    from dem_build.recipe.schema import Dataset, Recipe, Vector
    from dem_build.recipe.toml import Key

NUMBER = "give ω a number, such as omega = 0.5"

GIVE_ROWS = "add one, or name another `method` in [compose]"

RULES = Rules()


def _default(method: Method | None) -> str:
    """What follows the words `omega = "tune"`: that a recipe that says nothing says this."""
    return ", the default," if method is None or method.default == "tune" else ""


@RULES.whole
def _bounds_are_ordered(recipe: Recipe) -> Iterator[Mistake]:
    if recipe.tune is not None and not recipe.tune.bounds[0] < recipe.tune.bounds[1]:
        yield Mistake(("tune", "bounds"), "the lower bound must be below the upper one")


@RULES.whole
def _bounds_are_of_a_search_for_omega(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is None or method.linear or method.candidates or recipe.tune is None:
        return
    # A baseline's ω or scale is searched as any.
    if any(baseline.method == "single" or baseline.alpha == "tune" for _, baseline in baselines(recipe)):
        return
    for name in ("search", "granularity", "bounds"):
        if name in recipe.tune.model_fields_set:
            what = f'has no effect with method = "{method.name}", of which no ω is searched'
            yield Mistake(("tune", name), what, "remove it")


@RULES.whole
def _importance_names_datasets(recipe: Recipe) -> Iterator[Mistake]:
    for name in recipe.tune.importance if recipe.tune else ():
        if name not in (known := names(recipe, "datasets")):
            key = ("tune", "importance", name)
            yield Mistake(key, "there is no such dataset", nearest(name, known))


@RULES.whole
def _importance_is_of_judges(recipe: Recipe) -> Iterator[Mistake]:
    importance = recipe.tune.importance if recipe.tune else {}
    judges = {key for key, _ in with_rows(recipe, "validation")}
    for key, _ in datasets(recipe):
        if key not in judges and key[1] in importance:
            what = f"has no effect: `validation` of {key[1]} is 0, and importance weighs validation rows"
            hint = "remove it, or hold out a share such as 0.05"
            yield Mistake(("tune", "importance", key[1]), what, hint)


@RULES.each(datasets)
def _tuned_datasets_have_judges(recipe: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    if recipe.omega_of(dataset) == "tune" and dataset.validation == 0:
        method = METHODS.get(recipe.compose.method)
        what = f'is 0, and omega = "tune"{_default(method)} is judged on validation rows'
        instead = NUMBER if method is None or method.given else "name another `method` in [compose]"
        yield Mistake((*key, "validation"), what, f"hold out a share such as 0.05, or {instead}")


@RULES.each(vectors)
def _something_judges(recipe: Recipe, key: Key, vector: Vector) -> Iterator[Mistake]:
    if recipe.omega_of(vector) == "tune" and not with_rows(recipe, "validation"):
        method = METHODS.get(recipe.compose.method)
        what = f'omega = "tune"{_default(method)} needs a dataset with validation rows to judge it'
        yield Mistake((*key, "omega"), what, NUMBER if method is None or method.given else GIVE_ROWS)


@RULES.whole
def _someone_counts(recipe: Recipe) -> Iterator[Mistake]:
    importance = recipe.tune.importance if recipe.tune else {}
    # A wrong value may be any weight, 0 too: then nothing is said.
    counted = [importance.get(str(key[-1]), 1.0) for key, _ in with_rows(recipe, "validation")]
    if counted and all(value == 0 for value in counted):
        what = "is 0 for every dataset that has validation rows, so nothing is tuned for"
        yield Mistake(("tune", "importance"), what)


@RULES.each(omegas)
def _what_is_tuned_is_linear(recipe: Recipe, key: Key, omega: float | str) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is not None and not method.tuned and omega == "tune":
        searched = any_of(other.name for other in METHODS.values() if other.tuned and other.given)
        why = f"those of {method.name} are not searched"
        if method.total is not None:
            why = f"an {method.name}'s ω sum to {method.total:g}"
        what = f'omega = "tune"{_default(method)} is for method = {searched}: {why}'
        yield Mistake((*key, "omega"), what, NUMBER)


@RULES.whole
def _interpolations_have_vectors(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is None or method.total is None:  # an edit of no vectors is the base
        return
    if not names(recipe, "datasets", "vectors"):
        what = "there is no vector to interpolate, and an interpolation of none is a model of zeros"
        yield Mistake(("compose", "method"), what, "add [datasets.NAME], or remove it")
    elif (given := omegas(recipe)) and all(omega == 0 for _, omega in given):
        what = "the ω of every vector is 0, and an interpolation of none is a model of zeros"
        yield Mistake(("compose", "method"), what, "give one an ω other than 0")


@RULES.whole
def _curves_are_of_what_is_linear(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is None or method.linear:
        return
    why = "another ω scales its base too" if method.total is not None else "it is not linear in ω"
    for name in _analyses_by_name(recipe):
        if name in {"response", "ladder"}:
            what = f'has no effect with method = "{method.name}": {why}'
            yield Mistake(("analysis", name), what, "remove it")


@RULES.whole
def _analyses_have_rows(recipe: Recipe) -> Iterator[Mistake]:
    judged = with_rows(recipe, "validation")
    found = {
        "response": (judged or names(recipe, "probes"), "validation rows or a probe"),
        "ladder": (judged and with_rows(recipe, "test"), "validation and test rows"),
        "tsne": (judged, "validation rows"),
    }
    for name in _analyses_by_name(recipe):
        rows, words = found[name]
        if not rows:
            hint = "remove it, or hold out a share such as 0.05"
            yield Mistake(("analysis", name), f"has no effect without {words}", hint)


def _analyses_by_name(recipe: Recipe) -> list[str]:
    """By default an analysis is done where there are rows for it; what is asked for by name needs them."""
    if recipe.analysis is None:
        return []
    given = recipe.analysis.model_fields_set & {"response", "ladder", "tsne"}
    values = {name: getattr(recipe.analysis, name) for name in sorted(given)}
    return [name for name, value in values.items() if value is not WRONG and value]
