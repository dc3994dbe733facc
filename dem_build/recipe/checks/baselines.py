"""Rules of `[baselines]`: what each method takes, and what it needs to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe.checks.tables import Rules, baselines, mixed, mixtures, names, with_rows
from dem_build.recipe.messages import Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.recipe.schema import Baseline, Mixture, Recipe
    from dem_build.recipe.toml import Key

# Key of a baseline → the method that reads it.
READ_BY = {"proportions": "mixing", "alpha": "mixing", "train": "mixing", "omega": "interpolation"}

RULES = Rules()


@RULES.each(baselines)
def _keys_fit_the_method(_: Recipe, key: Key, baseline: Baseline) -> Iterator[Mistake]:
    for name, method in READ_BY.items():
        if name in baseline.model_fields_set and baseline.method != method:
            yield Mistake((*key, name), f'has no effect with method = "{baseline.method}"', "remove it")


@RULES.each(mixtures)
def _shares_name_datasets(recipe: Recipe, key: Key, mixture: Mixture) -> Iterator[Mistake]:
    if isinstance(mixture.proportions, dict):
        known, what = names(recipe, "datasets"), "dataset"
        if key[0] != "baselines":
            known, what = mixed(recipe, mixture), f"dataset in [{key[0]}]"
        yield from _unknown((*key, "proportions"), mixture.proportions, known, what)
        if mixture.proportions and not any(mixture.proportions.values()):
            yield Mistake((*key, "proportions"), "gives no dataset a share", "give one a share above 0")


@RULES.each(lambda recipe: baselines(recipe, "interpolation"))
def _omegas_name_vectors(recipe: Recipe, key: Key, baseline: Baseline) -> Iterator[Mistake]:
    omega = baseline.omega or {}
    known = names(recipe, "datasets", "vectors")
    yield from _unknown((*key, "omega"), omega, known, "dataset or vector")
    if omega and not any(omega.values()):
        what = "is 0 for every vector, and an interpolation of none is a model of zeros"
        yield Mistake((*key, "omega"), what, "give one an ω other than 0")


def _unknown(key: Key, given: Mapping[str, float], known: list[str], what: str) -> Iterator[Mistake]:
    for name in given:
        if name not in known:
            yield Mistake((*key, name), f"there is no such {what}", nearest(name, known))


@RULES.each(baselines)
def _something_to_make_it_of(recipe: Recipe, key: Key, baseline: Baseline) -> Iterator[Mistake]:
    hint = "add [datasets.NAME], or remove it"
    if baseline.method == "mixing" and not names(recipe, "datasets"):
        yield Mistake(key, "there is no dataset to mix", hint)
    elif baseline.method != "mixing" and not names(recipe, "datasets", "vectors"):
        yield Mistake(key, "there is no vector to make it of", hint)


@RULES.each(lambda recipe: baselines(recipe, "mixing"))
def _scales_have_singles_of_the_base(recipe: Recipe, key: Key, mixture: Baseline) -> Iterator[Mistake]:
    # It is sought by the gain of the datasets' own vectors over the same base.
    if mixture.alpha == "tune" and recipe.trunk is not None:
        what = 'alpha = "tune" is measured by vectors that start from the base, and with [trunk] none does'
        yield Mistake((*key, "alpha"), what, "give α a number")


@RULES.each(baselines)
def _tuned_baselines_have_judges(recipe: Recipe, key: Key, baseline: Baseline) -> Iterator[Mistake]:
    if with_rows(recipe, "validation"):
        return
    # Without any dataset or vector, that is what is told (above).
    what = "needs a dataset with validation rows to judge it"
    hint = "hold out a share such as 0.05"
    if baseline.method == "mixing" and baseline.alpha == "tune" and names(recipe, "datasets"):
        yield Mistake((*key, "alpha"), f'alpha = "tune" {what}', f"{hint}, or give α a number")
    if baseline.method == "single" and names(recipe, "datasets", "vectors"):
        yield Mistake((*key, "method"), f'method = "single" {what}', hint)
