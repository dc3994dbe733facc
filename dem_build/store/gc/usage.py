"""How much a store holds: by kind, by recipe and by age. What is shared counts once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.store import files
from dem_build.store.gc.census import size_of, take_census
from dem_build.store.gc.unneeded import DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dem_build.digest import Digest
    from dem_build.store.gc.census import Census, Recorded
    from dem_build.store.layout import Layout

__all__ = ["AGES", "Stats", "Usage", "stats"]

AGES: Mapping[str, float] = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY, "older": float("inf")}
"""Spans since the last use → how long each reaches back, in seconds; the youngest first."""


@dataclass(frozen=True)
class Usage:
    """How many entries, and how many bytes on disk."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Stats:
    """What the store holds.

    Attributes:
        objects: All objects.
        kinds: Kind → its records and the bytes of their objects; an object of several kinds counts for the first
            by name, so the sums and `unnamed` add up to `objects`.
        ages: How long ago a build used it last → the records and the bytes of their objects; an object of several
            ages counts for the youngest.
        unnamed: Objects that no record names.
        recipes: Recipe id → the records that its last builds name, and the bytes of their objects.
        exclusive: Recipe id → those of them that no other recipe names, and the bytes of objects that no other record
            names: what would be free without it.
        work: Folders of unfinished runs.
        quarantine: Damaged files that were set aside.
    """

    objects: Usage
    kinds: Mapping[str, Usage]
    ages: Mapping[str, Usage]
    unnamed: Usage
    recipes: Mapping[str, Usage]
    exclusive: Mapping[str, Usage]
    work: Usage
    quarantine: Usage


def stats(layout: Layout) -> Stats:
    """Count what the store holds; of objects nothing is read.

    Raises:
        StoreError: The store cannot be read.
    """
    with files.writing(layout.root):
        census = take_census(layout)
        sizes = {name: entry.size for name, entry in census.objects.items()}
        named = {recipe: {*keys} & {*census.records} for recipe, keys in _recipes(census).items()}
        last = census.last_use()
        kinds = _grouped(census, lambda found: found.record.kind, sorted)
        rest = sizes.keys() - {n for found in census.records.values() for n in found.objects()}
        return Stats(
            objects=_sum(sizes, sizes),
            kinds=_once(kinds, sizes),
            ages=_once(_grouped(census, lambda found: _age(census.now - last[found.key]), _by_age), sizes),
            unnamed=_sum(rest, sizes),
            recipes={r: _usage([census.records[k] for k in keys], sizes) for r, keys in named.items()},
            exclusive={r: _exclusive(r, named, census, sizes) for r in named},
            work=Usage(sum(1 for _ in layout.work.glob("*/*")), size_of(layout.work)[0]),
            quarantine=Usage(sum(1 for _ in layout.quarantine.iterdir()), size_of(layout.quarantine)[0]),
        )


def _recipes(census: Census) -> dict[str, frozenset[Digest]]:
    return {root.recipe_id: root.names for root in census.roots if root.document is not None}


def _age(seconds: float) -> str:
    return next(name for name, reach in AGES.items() if seconds < reach)


def _by_age(names: Iterable[str]) -> list[str]:
    there = {*names}
    return [name for name in AGES if name in there]


def _grouped(
    census: Census, group: Callable[[Recorded], str], order: Callable[[Iterable[str]], list[str]]
) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {}
    for recorded in census.records.values():
        found.setdefault(group(recorded), []).append(recorded)
    return {name: found[name] for name in order(found)}


def _once(groups: Mapping[str, list[Recorded]], sizes: Mapping[str, int]) -> dict[str, Usage]:
    """Return the usage of each group; an object counts for the first that names it."""
    rest, usages = dict(sizes), {}
    for name, group in groups.items():
        usages[name] = _usage(group, rest)
        for digest in {n for recorded in group for n in recorded.objects()}:
            rest.pop(digest, None)
    return usages


def _exclusive(
    recipe: str, named: Mapping[str, set[Digest]], census: Census, sizes: Mapping[str, int]
) -> Usage:
    keys = named[recipe].difference(*(others for name, others in named.items() if name != recipe))
    elsewhere = {n for key, found in census.records.items() if key not in keys for n in found.objects()}
    objects = {n for key in keys for n in census.records[key].objects()} - elsewhere
    return Usage(len(keys), _sum(objects, sizes).bytes)


def _usage(group: list[Recorded], sizes: Mapping[str, int]) -> Usage:
    return Usage(len(group), _sum({n for recorded in group for n in recorded.objects()}, sizes).bytes)


def _sum(names: Iterable[Digest], sizes: Mapping[str, int]) -> Usage:
    found = [sizes.get(name, 0) for name in names]
    return Usage(len(found), sum(found))
