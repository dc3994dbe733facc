"""Rules of `[baselines]`: what each method takes, and what it needs to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.recipe.checks.tables import is_nothing, names, raw, tables, validated
from dem_build.recipe.problems import Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.recipe.checks.tables import Raw
    from dem_build.recipe.locate import Key

__all__ = ["CONTENDING"]

# Key of a baseline → the methods that read it.
READ_BY: dict[str, tuple[str, ...]] = {
    "proportions": ("mixing",),
    "alpha": ("mixing",),
    "train": ("mixing",),
    "omega": ("interpolation",),
}


def _keys_fit_the_method(data: Raw) -> Iterator[Mistake]:
    for key, table in tables(data, "baselines"):
        method = table.get("method")
        for name, methods in READ_BY.items():
            if name in table and isinstance(method, str) and method not in methods:
                yield Mistake((*key, name), f'has no effect with method = "{method}"', "remove it")


def _shares_name_datasets(data: Raw) -> Iterator[Mistake]:
    for key, table in _of(data, "mixing"):
        yield from _unknown((*key, "proportions"), table, names(data, "datasets"), "dataset")
        if is_nothing(raw(table, "proportions").values()):
            yield Mistake((*key, "proportions"), "gives no dataset a share", "give one a share above 0")


def _omegas_name_vectors(data: Raw) -> Iterator[Mistake]:
    for key, table in _of(data, "interpolation"):
        yield from _unknown((*key, "omega"), table, names(data, "datasets", "vectors"), "dataset or vector")
        if is_nothing(raw(table, "omega").values()):
            what = "is 0 for every vector, and an interpolation of none is a model of zeros"
            yield Mistake((*key, "omega"), what, "give one an ω other than 0")


def _mixtures_have_datasets(data: Raw) -> Iterator[Mistake]:
    for key, _ in () if names(data, "datasets") else _of(data, "mixing"):
        yield Mistake(key, "there is no dataset to mix", "add [datasets.NAME], or remove it")


def _others_have_vectors(data: Raw) -> Iterator[Mistake]:
    methods = ("interpolation", "uniform", "single")
    for key, _ in () if names(data, "datasets", "vectors") else _of(data, *methods):
        yield Mistake(key, "there is no vector to make it of", "add [datasets.NAME], or remove it")


def _tuned_baselines_have_judges(data: Raw) -> Iterator[Mistake]:
    if validated(data):
        return
    what = "needs a dataset with validation rows to judge it"
    hint = "hold out a share such as 0.05"
    for key, table in _of(data, "mixing"):
        if table.get("alpha") == "tune" and names(data, "datasets"):
            yield Mistake((*key, "alpha"), f'alpha = "tune" {what}', f"{hint}, or give α a number")
    for key, _ in _of(data, "single") if names(data, "datasets", "vectors") else ():
        yield Mistake((*key, "method"), f'method = "single" {what}', hint)


def _length_counts_when_packed(data: Raw) -> Iterator[Mistake]:
    packs = raw(data, "train").get("packing")
    for key, table in _of(data, "mixing"):
        own = raw(table, "train")
        if "max_length" in own and not own.get("packing", packs):
            what = "has no effect without `packing`: the rows are as their datasets say"
            yield Mistake((*key, "train", "max_length"), what, "remove it, or set packing = true")


def _of(data: Raw, *methods: str) -> Iterator[tuple[Key, Raw]]:
    return ((key, table) for key, table in tables(data, "baselines") if table.get("method") in methods)


def _unknown(key: Key, table: Raw, known: list[str], what: str) -> Iterator[Mistake]:
    for name in raw(table, str(key[-1])):
        if name not in known:
            yield Mistake((*key, name), f"there is no such {what}", nearest(name, known))


CONTENDING: tuple[Callable[[Raw], Iterator[Mistake]], ...] = (
    _keys_fit_the_method,
    _shares_name_datasets,
    _omegas_name_vectors,
    _mixtures_have_datasets,
    _others_have_vectors,
    _tuned_baselines_have_judges,
    _length_counts_when_packed,
)
