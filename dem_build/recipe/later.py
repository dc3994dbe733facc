"""What the recipe language has and this version of dem has not. A line here goes when its feature comes.

`docs/recipe.md` lists these too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.recipe.places import is_local
from dem_build.recipe.problems import Mistake
from dem_build.recipe.tables import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dem_build.recipe.locate import Key
    from dem_build.recipe.tables import Raw

__all__ = ["LATER", "Later", "not_yet"]


@dataclass(frozen=True)
class Later:
    """A use of the language that is not built yet.

    Attributes:
        key: Where it is written; `*` stands for every name, or every item of a list.
        feature: What it is called in a message.
        until: What to do for now.
        uses: Which values use it, of those that the language has.
        absent: Whether leaving the key out uses it too, as its default does.
    """

    key: str
    feature: str
    until: str = "remove it for now"
    uses: Callable[[Any], bool] = lambda _: True
    absent: bool = False


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


_TRAIN = (Later("train.method", 'method = "lora"', 'use method = "full" for now', _is("lora")),)

LATER: tuple[Later, ...] = (
    *_TRAIN,
    *(Later(f"datasets.*.{item.key}", item.feature, item.until, item.uses) for item in _TRAIN),
    Later("baselines", "[baselines]"),
)


def not_yet(data: Raw, folder: Path) -> list[Mistake]:
    """Return every use of what this version has not.

    Args:
        data: The recipe's tables, lists given as tuples.
        folder: The recipe's folder.
    """
    found = [
        Mistake(key, f"{later.feature} is not in this version of dem yet", later.until)
        for later in LATER
        for key, value in _at(data, tuple(later.key.split(".")), absent=later.absent)
        if value is None or later.uses(value)
    ]
    return [*found, *_hub_vectors(data, folder)]


def _hub_vectors(data: Raw, folder: Path) -> Iterator[Mistake]:
    for key, table in tables(data, "vectors"):
        for source in ("checkpoint", "adapter"):
            origin = table.get(source)
            if isinstance(origin, str) and origin and not is_local(origin, folder):
                what = f"there is no folder `{origin}` here, and one from the hub is not in this version of dem yet"
                yield Mistake((*key, source), what, "download it, and name its folder")


def _at(table: Any, pattern: tuple[str, ...], key: Key = (), *, absent: bool) -> Iterator[tuple[Key, Any]]:
    """Yield what a pattern leads to; None for a last key that is absent, where that is asked for."""
    if not pattern:
        yield key, table
    elif isinstance(table, dict) and pattern[0] == "*":
        for name, value in table.items():
            yield from _at(value, pattern[1:], (*key, name), absent=absent)
    elif isinstance(table, dict) and pattern[0] in table:
        yield from _at(table[pattern[0]], pattern[1:], (*key, pattern[0]), absent=absent)
    elif isinstance(table, dict) and absent and len(pattern) == 1:
        yield (*key, pattern[0]), None
