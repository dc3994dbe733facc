"""Rules of ω and `[tune]`: what may be searched, and what judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe.checks.tables import is_nothing, is_number, names, raw, tables, tested, validated
from dem_build.recipe.problems import Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.recipe.checks.tables import Raw

__all__ = ["WEIGHING"]

NUMBER = "give ω a number, such as omega = 0.5"


def _bounds_are_ordered(data: Raw) -> Iterator[Mistake]:
    bounds = raw(data, "tune").get("bounds")
    if (
        isinstance(bounds, tuple)
        and len(bounds) == 2
        and all(map(is_number, bounds))
        and not bounds[0] < bounds[1]
    ):
        yield Mistake(("tune", "bounds"), "the lower bound must be below the upper one")


def _importance_names_datasets(data: Raw) -> Iterator[Mistake]:
    for name in raw(data, "tune", "importance"):
        if name not in raw(data, "datasets"):
            key = ("tune", "importance", name)
            yield Mistake(key, "there is no such dataset", nearest(name, raw(data, "datasets")))


def _importance_is_of_judges(data: Raw) -> Iterator[Mistake]:
    for name in raw(data, "tune", "importance"):
        share = raw(data, "datasets", name).get("validation")
        if is_number(share) and share == 0:
            what = f"has no effect: `validation` of {name} is 0, and importance weighs validation rows"
            yield Mistake(("tune", "importance", name), what, "remove it, or hold out a share such as 0.05")


def _tuned_datasets_have_judges(data: Raw) -> Iterator[Mistake]:
    for key, table in tables(data, "datasets"):
        share = table.get("validation")
        if _is_tuned(table) and is_number(share) and share == 0:
            what = 'is 0, and omega = "tune", the default, is judged on validation rows'
            yield Mistake((*key, "validation"), what, f"hold out a share such as 0.05, or {NUMBER}")


def _something_judges(data: Raw) -> Iterator[Mistake]:
    if validated(data):
        return
    for key, table in tables(data, "vectors"):
        if _is_tuned(table):
            what = 'omega = "tune", the default, needs a dataset with validation rows to judge it'
            yield Mistake((*key, "omega"), what, NUMBER)


def _someone_counts(data: Raw) -> Iterator[Mistake]:
    importance = raw(data, "tune", "importance")
    counted = [importance.get(str(key[-1]), 1.0) for key, _ in validated(data)]
    if counted and all(is_number(value) and value == 0 for value in counted):
        what = "is 0 for every dataset that has validation rows, so nothing is tuned for"
        yield Mistake(("tune", "importance"), what)


def _interpolation_takes_numbers(data: Raw) -> Iterator[Mistake]:
    if raw(data, "compose").get("method") != "interpolation":
        return
    for key, table in tables(data, "datasets", "vectors"):
        if _is_tuned(table):
            what = 'omega = "tune", the default, is for method = "dem": an interpolation\'s ω sum to 1'
            yield Mistake((*key, "omega"), what, NUMBER)


def _interpolations_have_vectors(data: Raw) -> Iterator[Mistake]:
    if raw(data, "compose").get("method") != "interpolation":
        return
    omegas = [table.get("omega") for _, table in tables(data, "datasets", "vectors")]
    if not omegas:
        what = "there is no vector to interpolate, and an interpolation of none is a model of zeros"
        yield Mistake(("compose", "method"), what, "add [datasets.NAME], or remove it")
    elif is_nothing(omegas):
        what = "the ω of every vector is 0, and an interpolation of none is a model of zeros"
        yield Mistake(("compose", "method"), what, "give one an ω other than 0")


def _losses_are_of_dem(data: Raw) -> Iterator[Mistake]:
    if raw(data, "compose").get("method") != "interpolation":
        return
    for name in ("response", "ladder"):
        if raw(data, "analysis").get(name):
            what = 'has no effect with method = "interpolation": another ω scales its base too'
            yield Mistake(("analysis", name), what, "remove it")


def _analyses_have_rows(data: Raw) -> Iterator[Mistake]:
    """By default an analysis is done where there are rows for it; what is asked for by name needs them."""
    judged = validated(data)
    found = {
        "response": (judged or names(data, "probes"), "validation rows or a probe"),
        "ladder": (judged and tested(data), "validation and test rows"),
        "tsne": (judged, "validation rows"),
    }
    for name, (rows, words) in found.items():
        if raw(data, "analysis").get(name) and not rows:
            hint = "remove it, or hold out a share such as 0.05"
            yield Mistake(("analysis", name), f"has no effect without {words}", hint)


def _is_tuned(table: Raw) -> bool:
    return bool(table.get("omega", "tune") == "tune")


WEIGHING: tuple[Callable[[Raw], Iterator[Mistake]], ...] = (
    _bounds_are_ordered,
    _importance_names_datasets,
    _importance_is_of_judges,
    _tuned_datasets_have_judges,
    _something_judges,
    _someone_counts,
    _interpolation_takes_numbers,
    _interpolations_have_vectors,
    _losses_are_of_dem,
    _analyses_have_rows,
)
