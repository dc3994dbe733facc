"""A tolerant look at a recipe's raw tables: rules read them before it is known that their shapes are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.recipe.locate import Key

__all__ = [
    "Raw",
    "is_nothing",
    "is_number",
    "items",
    "learners",
    "names",
    "raw",
    "sources",
    "tables",
    "tested",
    "trains",
    "validated",
]

Raw = dict[str, Any]


def raw(value: Any, *keys: str) -> Raw:
    """Return the table at `keys`, or an empty one where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Return whether a value is a number: in TOML, true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_nothing(weights: Collection[Any]) -> bool:
    """Return whether there are weights, and all of them are 0."""
    return bool(weights) and all(map(is_number, weights)) and not any(weights)


def items(value: Any) -> tuple[Any, ...]:
    """Return a list's items; none where it is no list."""
    return value if isinstance(value, tuple) else ()


def names(data: Raw, *sections: str) -> list[str]:
    """Return the names of the tables in the sections."""
    return [name for section in sections for name in raw(data, section)]


def tables(data: Raw, *sections: str) -> Iterator[tuple[Key, Raw]]:
    """Yield each named table of the sections with its key, such as `datasets.math`."""
    for section in sections:
        for name, table in raw(data, section).items():
            if isinstance(table, dict):
                yield (section, name), table


def sources(data: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield each table that names a source of rows."""
    yield from tables(data, "datasets", "probes")


def trains(data: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield `[train]`, and the own `train` table of all that is trained."""
    yield ("train",), raw(data, "train")
    for key, table in learners(data):
        yield (*key, "train"), raw(table, "train")


def validated(data: Raw) -> list[tuple[Key, Raw]]:
    """Return the datasets that hold out validation rows, which they do unless they say 0."""
    return _holding_out(data, "validation")


def tested(data: Raw) -> list[tuple[Key, Raw]]:
    """Return the datasets that hold out test rows, which they do unless they say 0."""
    return _holding_out(data, "test")


def _holding_out(data: Raw, part: str) -> list[tuple[Key, Raw]]:
    found = ((key, table, table.get(part)) for key, table in tables(data, "datasets"))
    return [(key, table) for key, table, share in found if not (is_number(share) and share == 0)]


def learners(data: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield each table of what is trained: datasets, and mixtures of them."""
    yield from tables(data, "datasets")
    yield from ((key, table) for key, table in tables(data, "baselines") if table.get("method") == "mixing")
