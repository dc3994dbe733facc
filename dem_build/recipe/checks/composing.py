"""Rules of `[compose]`: what a way to compose reads, and of how many vectors and of which ω it makes a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import METHODS
from dem_build.recipe.checks.tables import Rules, names, omegas, vectors
from dem_build.recipe.messages import Mistake, any_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.recipe.schema import Recipe, Vector
    from dem_build.recipe.toml import Key

RULES = Rules()


@RULES.whole
def _keys_fit_the_method(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    readers: dict[str, list[str]] = {}
    for other in METHODS.values():
        for key in other.keys:
            readers.setdefault(key, []).append(other.name)
    for key in sorted(recipe.compose.model_fields_set & readers.keys()):
        if method is not None and key not in method.keys:
            hint = f"remove it, or set method = {any_of(readers[key])}"
            yield Mistake(("compose", key), f'has no effect with method = "{method.name}"', hint)


@RULES.whole
def _vectors_are_as_many_as_it_takes(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    found = names(recipe, "datasets", "vectors")
    if method is not None and method.vectors not in (None, len(found)):
        what = f"{method.name} takes {method.vectors} vectors, and the recipe has {len(found)}"
        yield Mistake(
            ("compose", "method"), what, "add or remove datasets or vectors, or set another `method`"
        )


@RULES.each(vectors)
def _vectors_have_rows(recipe: Recipe, key: Key, vector: Vector) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is not None and method.sampled and vector.rows is None and recipe.omega_of(vector) != 0:
        what = f'has no training rows, and method = "{method.name}" looks at those of each vector'
        yield Mistake(
            key, what, 'name some, `rows = "…"`, set its omega to 0, or set another `method` in [compose]'
        )


@RULES.each(omegas)
def _omega_is_given_where_it_can_be(recipe: Recipe, key: Key, omega: float | str) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is not None and not method.given and not isinstance(omega, str):
        what = f'has no effect with method = "{method.name}": it is {method.omega}'
        yield Mistake((*key, "omega"), what, "remove it, or name a `method` that it is for")


@RULES.whole
def _granularity_is_of_one_search(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    said = recipe.tune.model_fields_set if recipe.tune is not None else ()
    if method is not None and method.candidates and "granularity" in said:
        what = f'has no effect with method = "{method.name}": both are tried'
        yield Mistake(("tune", "granularity"), what, "remove it")


@RULES.whole
def _candidates_have_names_of_their_own(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    for section in ("datasets", "vectors", "probes", "baselines"):
        for name in names(recipe, section):
            if method is not None and name in method.candidates:
                what = (
                    f'with method = "{method.name}", `{name}` is what a model is called that it chooses from'
                )
                yield Mistake((section, name), what, "give it another name")


@RULES.each(omegas)
def _shares_are_not_below_zero(recipe: Recipe, key: Key, omega: float | str) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is not None and method.shares and not isinstance(omega, str) and omega < 0:
        what = f'is below 0, and with method = "{method.name}" it is {method.omega}'
        yield Mistake((*key, "omega"), what, "give ω 0 or more")


@RULES.whole
def _someone_has_a_share(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    if method is None or not (method.shares or method.candidates):
        return
    if not names(recipe, "datasets", "vectors"):
        yield Mistake(
            ("compose", "method"), "there is no vector to compose", "add [datasets.NAME], or remove it"
        )
    elif (given := omegas(recipe)) and all(omega == 0 for _, omega in given):
        yield Mistake(("compose", "method"), "the ω of every vector is 0", "give one an ω above 0")
